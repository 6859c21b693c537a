// The loss of a regression.
//
//     Var loss = mean_squared_error(tape, prediction /*[T,C]*/, constant(target) /*[T,C]*/);
#pragma once

#include "core/tape.h"

namespace limbeck::core {

/// Σ (a - b)² / n, [1]: n is `global_count`, the elements of all ranks, or those of a where it is 0 (then one or more).
/// Of one shape and dtype, float32 or float64. A gradient flows to either.
Var mean_squared_error(Tape& tape, const Var& a, const Var& b, std::int64_t global_count = 0);

}  // namespace limbeck::core
