// A linear layer without bias.
//
//     Var y = linear(tape, x, as_var(weight));   // x [T,in], weight [out,in] -> y [T,out]
#pragma once

#include "core/tape.h"

namespace limbeck::core {

/// y = x W^T. x is float32 or float64; the weight has the same dtype, or bfloat16. Its gradient, of x's dtype, is the
/// step's weight part. Throws where shapes or dtypes do not fit.
Var linear(Tape& tape, const Var& x /*[T,in]*/, const Var& weight /*[out,in]*/);

}  // namespace limbeck::core
