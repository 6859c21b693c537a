// The devices of a build without CUDA.
#pragma once

#include <variant>

#include "kernels/cpu.h"

namespace limbeck::kernels {
using Device = std::variant<Cpu>;
}
