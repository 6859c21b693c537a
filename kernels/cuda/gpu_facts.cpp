#include "kernels/cuda/gpu_facts.h"

#include <cuda_runtime.h>

#include <array>
#include <cstddef>

#include "kernels/cuda/cuda_state.h"

namespace limbeck::kernels {

std::int64_t free_cuda_bytes(int ordinal) {
  check_cuda(cudaSetDevice(ordinal));
  std::size_t free = 0, all = 0;
  check_cuda(cudaMemGetInfo(&free, &all));
  return static_cast<std::int64_t>(free);
}

std::string bus_of_cuda(int ordinal) {
  std::array<char, 32> bus{};
  check_cuda(cudaDeviceGetPCIBusId(bus.data(), static_cast<int>(bus.size()), ordinal));
  return bus.data();
}

}  // namespace limbeck::kernels
