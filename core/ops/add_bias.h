// A row that is added to every row.
//
//     Var y = add_bias(tape, exit(tape, part, comm), as_var(bias));   // [T,C], [C]: once, behind the ranks' sum
#pragma once

#include "core/tape.h"

namespace limbeck::core {

/// y[t,c] = x[t,c] + bias[c], of x's dtype: float32, float64 or bfloat16, beside which the bias and its gradient are
/// float32. That gradient adds over the rows in one order, whatever the number of threads.
Var add_bias(Tape& tape, const Var& x /*[T,C]*/, const Var& bias /*[C]*/);

}  // namespace limbeck::core
