// The norm of rows that are cut over a tensor group: each rank has some columns of all rows.
//
//     Var q = cut_rms_norm(tape, linear(tape, x, wq), as_var(q_norm), /*total=*/H * D, config.norm_eps, *comms.tensor);
#pragma once

#include "core/communicators.h"
#include "core/tape.h"

namespace limbeck::core {

/// This rank's columns of rms_norm over rows of `total` columns: y[t,c] = x[t,c] weight[c] / sqrt(mean x[t,:]² + eps),
/// the mean over all ranks' columns. x is float32, float64 or bfloat16, beside which the weight, its gradient and all
/// sums are float32. Every rank calls it equally often and in the same order, forward and backward, also without
/// columns or rows; one sum of T numbers over the ranks each.
Var cut_rms_norm(Tape& tape, const Var& x /*[T,C_local]*/, const Var& weight /*[C_local]*/, std::int64_t total,
                 double eps, nn::TensorComm& ranks);

}  // namespace limbeck::core
