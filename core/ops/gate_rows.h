// Rows times the sigmoid of a number of their own.
//
//     Var y = gate_rows(tape, linear(tape, x, as_var(*shared_gate)) /*[T,1]*/, shared /*[T,C]*/);
#pragma once

#include "core/tape.h"

namespace limbeck::core {

/// y[t,c] = sigmoid(gate[t]) x[t,c]. Both float32, float64 or bfloat16.
Var gate_rows(Tape& tape, const Var& gate /*[T,1]*/, const Var& x /*[T,C]*/);

}  // namespace limbeck::core
