// What is known of GPUs, of a build with CUDA.
#pragma once

#include <cstdint>
#include <string>

#include "kernels/cuda/gpu_facts.h"

namespace limbeck::kernels {

inline std::int64_t free_gpu_bytes(int ordinal) { return free_cuda_bytes(ordinal); }
inline std::string bus_of_gpu(int ordinal) { return bus_of_cuda(ordinal); }

}  // namespace limbeck::kernels
