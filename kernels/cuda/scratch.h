// Memory on the GPU for what the kernels of one call hand each other: that of the products, which a stream uses by
// turns.
//
//     Scratch scratch(cuda);
//     auto* sums = scratch.take<double>(parts);
#pragma once

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>

#include "kernels/cuda/cuda_state.h"

namespace limbeck::kernels {

class Scratch {
 public:
  explicit Scratch(const Cuda& cuda) : memory_(static_cast<std::byte*>(cuda.state->workspace)) {}

  /// `count` values that nobody has written, from a multiple of 256 bytes on. Throws where there is no room.
  template <class T>
  T* take(std::int64_t count) {
    const std::size_t begin = used_;
    const std::size_t bytes = static_cast<std::size_t>(count) * sizeof(T);
    used_ += (bytes + 255) / 256 * 256;
    if (used_ > CudaState::workspace_bytes)
      throw std::runtime_error("a kernel needs " + std::to_string(used_) +
                               " bytes of scratch memory on the GPU, at most " +
                               std::to_string(CudaState::workspace_bytes) + " are kept for it");
    return reinterpret_cast<T*>(memory_ + begin);
  }

  /// Bytes that there is room for yet.
  std::size_t left() const { return CudaState::workspace_bytes - used_; }

 private:
  std::byte* memory_;
  std::size_t used_ = 0;
};

}  // namespace limbeck::kernels
