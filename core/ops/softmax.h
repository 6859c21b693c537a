// Softmax over the last dimension.
//
//     Var p = softmax(tape, logits /*[T,V]*/);
#pragma once

#include "core/tape.h"

namespace limbeck::core {

/// exp(x[...,j]) / Σ_i exp(x[...,i]), of one dimension or more. float32 or float64. For the loss of logits use
/// cross_entropy, which does not lose small probabilities.
Var softmax(Tape& tape, const Var& x);

}  // namespace limbeck::core
