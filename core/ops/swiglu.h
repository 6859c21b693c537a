// The gated unit of the feed-forward: silu(gate) * up, or with another activation (Shazeer 2020, "GLU variants improve
// transformer").
//
//     Var h = swiglu(tape, linear(tape, x, gate_weight), linear(tape, x, up_weight));
//     Var g = swiglu(tape, gate, up, Activation::GeluTanh);   // Gemma's
#pragma once

#include "core/tape.h"
#include "kernels/activation.h"

namespace limbeck::core {

using kernels::Activation;

/// gate / (1 + exp(-gate)) * up, or another activation of gate times up (kernels/activation.h), of one shape. Float32,
/// float64 or bfloat16. `limit` is ClampedSwish's (kernels/swiglu.h).
Var swiglu(Tape& tape, const Var& gate, const Var& up, Activation activation = Activation::Silu, double limit = 0);

}  // namespace limbeck::core
