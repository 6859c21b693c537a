// A rank's memory on one device: a caching allocator. Blocks that are given back are kept, split and merged; after the
// first steps of a training run the system is asked for nothing.
//
//     auto memory = Memory::cpu(/*threads=*/2);
//     Tensor x = Tensor::empty(memory, DType::F32, {4, 768});
//     memory->statistics().system_allocations;
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <utility>
#include <vector>

#include "device_set.h"

namespace limbeck::core {

using kernels::Device;

struct MemoryStatistics {
  std::int64_t system_allocations = 0;  // times the system was asked for memory
  std::int64_t system_bytes = 0;        // held from the system
  std::int64_t used_bytes = 0;          // in tensors now
  std::int64_t peak_bytes = 0;          // most ever in tensors
};

class Memory {
 public:
  explicit Memory(Device device) : device_(std::move(device)) {}
  ~Memory();
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;

  static std::shared_ptr<Memory> cpu(int threads);

  const Device& device() const { return device_; }
  void* allocate(std::int64_t bytes);
  void deallocate(void* block) noexcept;
  MemoryStatistics statistics() const;
  void reset_peak();

  /// Reads by host_value and host_values (tensor.h), each of which would stall a device's queue; from any thread.
  std::atomic<std::int64_t> host_reads = 0;

 private:
  struct Block {
    std::int64_t bytes = 0;
    bool used = false;
    std::int64_t segment = 0;
  };
  void insert_free(char* at, std::int64_t bytes) { free_.insert({bytes, at}); }

  Device device_;
  mutable std::mutex mutex_;  // the communication thread frees tensors too
  std::map<char*, Block> blocks_;
  std::set<std::pair<std::int64_t, char*>> free_;
  std::vector<std::pair<char*, std::int64_t>> segments_;
  MemoryStatistics statistics_;
};

using MemoryPtr = std::shared_ptr<Memory>;

}  // namespace limbeck::core
