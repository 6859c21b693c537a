// A block's step of the residual stream: what the block before it gave is added, and the norm of the sum is what it
// reads. In one pass over memory, forward and backward; the values are those of add and rms_norm.
//
//     NormedSum next = add_rms_norm(tape, stream, attention(tape, ...), as_var(mlp_norm), config.norm_eps);
//     Var fed = mlp(tape, next.normed);                    // next.sum is the stream
#pragma once

#include "core/tape.h"

namespace limbeck::core {

struct NormedSum {
  Var sum;     // [T,C] of x's dtype
  Var normed;  // [T,C] of delta's dtype
};

/// sum = x + delta, rounded to x's dtype; normed[t,c] = sum[t,c] weight[c] / sqrt(mean_c sum[t,c]² + eps). x is
/// float32, float64 or bfloat16; delta alike, or bfloat16 beside float32. The weight, its gradient and all sums are of
/// x's sum type; the weight's gradient adds over the rows in one order, whatever the number of threads. The sum takes
/// delta's memory where that is of its dtype and nobody else's: std::move it here.
NormedSum add_rms_norm(Tape& tape, const Var& x /*[T,C]*/, Var delta /*[T,C]*/, const Var& weight /*[C]*/, double eps);

}  // namespace limbeck::core
