// The gated unit of the feed-forward: silu(gate) * up (Shazeer 2020, "GLU variants improve transformer").
//
//     Var h = swiglu(tape, linear(tape, x, gate_weight), linear(tape, x, up_weight));
#pragma once

#include "core/tape.h"

namespace limbeck::core {

/// gate / (1 + exp(-gate)) * up, of one shape. float32 or float64.
Var swiglu(Tape& tape, const Var& gate, const Var& up);

}  // namespace limbeck::core
