// A linear layer an expert, over rows that are sorted by expert.
//
//     Var y = grouped_linear(tape, rows, as_var(experts_up), dispatched.offsets);   // [R,in], [E,out,in] -> [R,out]
#pragma once

#include "core/tape.h"

namespace limbeck::core {

/// y_r = W_e x_r for rows offsets[e] <= r < offsets[e+1]. Offsets ascend and lie within the rows; rows outside of them
/// give 0 and have gradient 0. An expert may have no rows: its step is recorded and its gradient is 0. The gradient of
/// the weight is the step's weight part. Float32 or float64; the weight may be
/// bfloat16, and its gradient is then of the rows' dtype.
Var grouped_linear(Tape& tape, const Var& rows /*[R,in]*/, const Var& weight /*[E,out,in]*/,
                   const Tensor& offsets /*[E+1] int64*/);

/// W_e^T rows_r by the same groups: [R,in] of rows [R,out]. Not recorded.
Tensor grouped_transposed(const Tensor& rows /*[R,out]*/, const Tensor& weight /*[E,out,in]*/,
                          const Tensor& offsets /*[E+1] int64*/);

}  // namespace limbeck::core
