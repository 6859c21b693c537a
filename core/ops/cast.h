// The same numbers in another type.
//
//     Var exact = cast(tape, x, DType::F32);      // of bfloat16 activations, for what is worked out in float32
#pragma once

#include "core/tape.h"

namespace limbeck::core {

/// x rounded to a dtype, of float32, float64 and bfloat16; x itself where it has it. Its gradient is of x's dtype.
Var cast(Tape& tape, const Var& x, DType dtype);

}  // namespace limbeck::core
