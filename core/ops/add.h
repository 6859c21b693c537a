// Sums: residual connections, and the terms of a loss.
//
//     x = add(tape, x, attention(tape, x));
//     loss = add(tape, loss, scale(tape, penalty, 0.01));
#pragma once

#include "core/tape.h"

namespace limbeck::core {

/// a + b, of one shape and a's dtype: float32, float64 or bfloat16. b has it too, or is bfloat16 beside float32.
Var add(Tape& tape, const Var& a, const Var& b);

/// factor * x. float32, float64 or bfloat16.
Var scale(Tape& tape, const Var& x, double factor);

}  // namespace limbeck::core
