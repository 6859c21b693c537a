// Noise on the router's input, so that near ties are explored (Fedus et al. 2021, "Switch transformers", 2.2).
//
//     const RandomStream noise(seed, step, "layers.3.moe.jitter");
//     Var logits = linear(tape, jitter(tape, x, batch.global_index, 0.01, noise), router_weight);
#pragma once

#include "core/random.h"
#include "core/tape.h"

namespace limbeck::core {

/// y[t,c] = x[t,c] r[t,c], r uniform in [1 - epsilon, 1 + epsilon): a function of the stream and the token's global
/// index, so the same in every layout and replay. Backward: dx = dy r. float32 or float64.
Var jitter(Tape& tape, const Var& x /*[T,C]*/, const Tensor& global_index /*[T] int64*/, double epsilon,
           const RandomStream& noise);

}  // namespace limbeck::core
