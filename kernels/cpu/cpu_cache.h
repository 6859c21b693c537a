// What a rank's CPU kernels keep between calls: prepared matrix products and scratch memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>
#include <vector>

#include "kernels/cpu.h"

namespace limbeck::kernels {

/// Memory that only grows. Its contents last until the next request for the same one.
class Scratch {
 public:
  template <class T>
  T* get(std::int64_t count) {
    const auto bytes = static_cast<std::size_t>(count) * sizeof(T);
    if (bytes > bytes_) {
      data_.reset();
      bytes_ = (bytes + 4095) / 4096 * 4096;
      data_.reset(std::aligned_alloc(64, bytes_));
      if (!data_) throw std::bad_alloc();
    }
    return static_cast<T*>(data_.get());
  }

 private:
  struct Free {
    void operator()(void* p) const { std::free(p); }
  };
  std::unique_ptr<void, Free> data_;
  std::size_t bytes_ = 0;
};

/// Of one of the threads that make a product of bfloat16 matrices.
struct TaskScratch {
  Scratch rows, panels, sums, values;
};

struct CpuCache {
  std::shared_ptr<void> products;   // of the file that defines the float product
  Scratch matmul;                   // widened tiles of a weight
  std::vector<TaskScratch> tasks;   // one a thread
  Scratch pieces;                   // of long sums, which several tasks make
  Scratch fp8;                      // factors of such a product, widened, and its sums
  std::size_t tile_product = 0;     // of tile_products()
  std::shared_ptr<void> attention;  // of the files that define it
};

}  // namespace limbeck::kernels
