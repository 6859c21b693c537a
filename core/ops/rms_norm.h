// Root-mean-square normalisation (Zhang & Sennrich 2019).
//
//     Var y = rms_norm(tape, x /*[T,C]*/, as_var(weight) /*[C]*/, config.norm_eps);
#pragma once

#include <optional>

#include "core/tape.h"

namespace limbeck::core {

/// y[t,c] = x[t,c] weight[c] / sqrt(mean_c x[t,c]² + eps), of a dtype: x's, or bfloat16 of float32. x is float32,
/// float64 or bfloat16, beside which the weight, its gradient and all sums are float32. The weight's gradient adds over
/// the rows in one order, whatever the number of threads. Where x is [T,n*C], such as n heads side by side, each of the
/// n is normed by itself.
Var rms_norm(Tape& tape, const Var& x /*[T,n*C]*/, const Var& weight /*[C]*/, double eps,
             std::optional<DType> dtype = {});

}  // namespace limbeck::core
