// A row for each expert that is added to each of its rows.
//
//     Var y = add_grouped_bias(tape, grouped_linear(tape, rows, weight, offsets), as_var(bias), offsets);
#pragma once

#include "core/tape.h"

namespace limbeck::core {

/// y_r = x_r + bias_e for rows offsets[e] <= r < offsets[e+1]; rows outside of them stay as they are. A bias may be of
/// some columns alone, from `first` on: of parts of a sum over ranks, each adds its share once. An expert may have no
/// rows, and its gradient is then 0. Of x's dtype: float32, float64 or bfloat16, beside which the bias and its gradient
/// are float32. That gradient adds over the rows in one order, whatever the number of threads.
Var add_grouped_bias(Tape& tape, const Var& x /*[R,C]*/, const Var& bias /*[E,C']*/, const Tensor& offsets /*[E+1]*/,
                     std::int64_t first = 0);

}  // namespace limbeck::core
