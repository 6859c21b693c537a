// A linear layer without bias.
//
//     Var y = linear(tape, x, as_var(weight));   // x [T,in], weight [out,in] -> y [T,out]
#pragma once

#include "core/tape.h"

namespace limbeck::core {

/// y = x W^T, of x's dtype: float32, float64 or bfloat16 (core/ops/product.h). The weight has the same dtype, or
/// bfloat16; or float32 beside bfloat16. Its gradient is the step's weight part, float32 beside bfloat16, else of x's
/// dtype. Throws where shapes or dtypes do not fit.
Var linear(Tape& tape, const Var& x /*[T,in]*/, const Var& weight /*[out,in]*/);

}  // namespace limbeck::core
