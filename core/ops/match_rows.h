// The distance of a student's hidden states from its teacher's, as a loss.
//
//     Var loss = match_rows(tape, stream /*[T,C]*/, teacher_stream /*[T,C]*/, batch.targets,
//     kernels::RowDistance::Cosine,
//                           {.weight = 0.5, .scale = per_target});
#pragma once

#include "core/tape.h"
#include "kernels/match_rows.h"

namespace limbeck::core {

struct MatchOptions {
  double weight = 1;  // of a token's distance
  Tensor scale = {};  // [1] float64, which the weight is times; undefined: 1
  /// [1] float64, if it is defined: the sum of squares of the gradient with respect to x is added, once (not again in a
  /// replay).
  Tensor squares = {};
};

/// Sum over the tokens with a target (not -1) of weight times the distance of x[t] from y[t], [1], of y's dtype:
/// float32 for bfloat16 x, else x's. The gradient, of x's dtype, flows to x alone.
Var match_rows(Tape& tape, const Var& x /*[T,C]*/, const Tensor& y /*[T,C]*/, const Tensor& targets /*[T] int32*/,
               kernels::RowDistance kind, const MatchOptions& options = {});

}  // namespace limbeck::core
