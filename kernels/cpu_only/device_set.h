// The devices of a build without CUDA.
#pragma once

#include <stdexcept>
#include <string>
#include <variant>

#include "kernels/cpu.h"

namespace limbeck::kernels {

using Device = std::variant<Cpu>;

inline constexpr bool knows_gpus = false;
inline int num_gpus() { return 0; }
inline std::string why_no_gpu() { return "this build knows none"; }
inline Device make_gpu(int) { throw std::logic_error("a GPU was asked for in a build without any"); }

}  // namespace limbeck::kernels
