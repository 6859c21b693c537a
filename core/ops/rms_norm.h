// Root-mean-square normalisation (Zhang & Sennrich 2019).
//
//     Var y = rms_norm(tape, x /*[T,C]*/, as_var(weight) /*[C]*/, config.norm_eps);
#pragma once

#include "core/tape.h"

namespace limbeck::core {

/// y[t,c] = x[t,c] weight[c] / sqrt(mean_c x[t,c]² + eps). float32 or float64, one dtype for both. The weight's
/// gradient adds over the rows in their order, whatever the number of threads.
Var rms_norm(Tape& tape, const Var& x /*[T,C]*/, const Var& weight /*[C]*/, double eps);

}  // namespace limbeck::core
