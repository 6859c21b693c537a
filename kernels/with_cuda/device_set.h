// The devices of a build with CUDA.
#pragma once

#include <string>
#include <variant>

#include "kernels/cpu.h"
#include "kernels/cuda/cuda.h"

namespace limbeck::kernels {

using Device = std::variant<Cpu, Cuda>;

inline constexpr bool knows_gpus = true;
inline int num_gpus() { return num_cuda_devices(); }
inline std::string why_no_gpu() { return why_no_cuda_device(); }
inline Device make_gpu(int ordinal) { return make_cuda(ordinal); }

}  // namespace limbeck::kernels
