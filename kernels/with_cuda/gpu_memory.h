// What GPUs have left, of a build with CUDA.
#pragma once

#include <cstdint>

#include "kernels/cuda/free_memory.h"

namespace limbeck::kernels {

inline std::int64_t free_gpu_bytes(int ordinal) { return free_cuda_bytes(ordinal); }

}  // namespace limbeck::kernels
