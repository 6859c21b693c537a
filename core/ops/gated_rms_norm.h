// The norm behind Mamba-2's states: of gated rows, each group of channels by itself.
//
//     Var u = gated_rms_norm(tape, y /*[T,C]*/, z /*[T,C]*/, as_var(weight) /*[C]*/, num_groups, config.norm_eps);
#pragma once

#include "core/tape.h"

namespace limbeck::core {

/// With g = y silu(z): u[t,c] = g[t,c] weight[c] / sqrt(mean g² + eps), the mean over the channels of c's group, of
/// which there are `num_groups` of equal width side by side. Float32, float64 or bfloat16, beside which the weight, its
/// gradient and all sums are float32. The weight's gradient adds over the rows in one order, whatever the number of
/// threads.
Var gated_rms_norm(Tape& tape, const Var& y /*[T,C]*/, const Var& z /*[T,C]*/, const Var& weight /*[C]*/,
                   std::int64_t num_groups, double eps);

}  // namespace limbeck::core
