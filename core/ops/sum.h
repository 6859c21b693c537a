// The sum and the mean of all elements.
//
//     Var loss = mean(tape, losses);                                    // [1]
//     Var part = mean(tape, losses, /*global_count=*/num_of_all_ranks);  // whose sum over the ranks is the mean
#pragma once

#include "core/tape.h"

namespace limbeck::core {

/// [1], summed in float64 in an order that depends on the number of elements alone. float32 or float64.
Var sum(Tape& tape, const Var& x);

/// The sum over `global_count`, the elements of all ranks, or those of x where it is 0 (then one or more).
Var mean(Tape& tape, const Var& x, std::int64_t global_count = 0);

}  // namespace limbeck::core
