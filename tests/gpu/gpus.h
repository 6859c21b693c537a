// The GPUs that a test's ranks take.
//
//     launch::Rank rank(world.comm, "ep2", 1, false, gpu_memory(world.rank));
#pragma once

#include <cuda_runtime.h>

#include <memory>

#include "core/device/memory.h"
#include "kernels/cuda/cuda_state.h"

namespace limbeck::testing {

inline int num_gpus() {
  int count = 0;
  kernels::check_cuda(cudaGetDeviceCount(&count));
  return count;
}

/// Of the rank's own GPU, or where there are fewer of one that it shares. The calling thread uses it from then on.
inline core::MemoryPtr gpu_memory(int rank) {
  return std::make_shared<core::Memory>(kernels::make_cuda(rank % num_gpus()), /*threads=*/1);
}

}  // namespace limbeck::testing
