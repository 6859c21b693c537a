#include "kernels/cuda/free_memory.h"

#include <cuda_runtime.h>

#include <cstddef>

#include "kernels/cuda/cuda_state.h"

namespace limbeck::kernels {

std::int64_t free_cuda_bytes(int ordinal) {
  check_cuda(cudaSetDevice(ordinal));
  std::size_t free = 0, all = 0;
  check_cuda(cudaMemGetInfo(&free, &all));
  return static_cast<std::int64_t>(free);
}

}  // namespace limbeck::kernels
