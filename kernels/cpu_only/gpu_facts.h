// What is known of GPUs, of a build without CUDA.
#pragma once

#include <cstdint>
#include <string>

namespace limbeck::kernels {

inline std::int64_t free_gpu_bytes(int) { return 0; }
inline std::string bus_of_gpu(int) { return ""; }

}  // namespace limbeck::kernels
