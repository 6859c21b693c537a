// The activation of feed-forwards without a gate.
//
//     Var h = gelu(tape, linear(tape, x, up_weight, products, up_bias));
#pragma once

#include "core/tape.h"
#include "kernels/activation.h"

namespace limbeck::core {

using kernels::Activation;

/// x Φ(x), by default in GPT-2's approximation by tanh (gelu_new), or another activation: kernels/activation.h.
/// Float32, float64 or bfloat16.
Var gelu(Tape& tape, const Var& x, Activation activation = Activation::GeluTanh);

}  // namespace limbeck::core
