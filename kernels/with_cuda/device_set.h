// The devices of a build with CUDA.
#pragma once

#include <variant>

#include "kernels/cpu.h"
#include "kernels/cuda/cuda.h"

namespace limbeck::kernels {
using Device = std::variant<Cpu, Cuda>;
}
