// A number added to each element.
//
//     Var weight = offset(tape, as_var(stored), 1);      // of norms whose weights are stored less one
#pragma once

#include "core/tape.h"

namespace limbeck::core {

/// x + number. float32, float64 or bfloat16.
Var offset(Tape& tape, const Var& x, double number);

}  // namespace limbeck::core
