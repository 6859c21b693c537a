// The distance of a student's routing from its teacher's, as a loss.
//
//     const Tensor weights = load_weights(teacher.selection, counts, batch.sequence);
//     Var loss = match_routing(tape, routing.probabilities, teacher.probabilities, batch.targets, weights,
//                              {.weight = 0.5, .scale = per_target});
#pragma once

#include "core/ops/match_rows.h"

namespace limbeck::core {

/// [T] float64: weights of a teacher's tokens by which each expert that a sequence uses counts alike
/// (kernels/match_routing.h), by counts as sequence_counts gives them of whole sequences.
Tensor load_weights(const Tensor& selection /*[T,K] int32*/, const Tensor& counts /*[S,E] float64*/,
                    const Tensor& sequence /*[T] int32, below S*/);

/// Sum over the tokens with a target (not -1) of weight times the token's weight (1 where `weights` is undefined) times
/// KL(p[t] || q[t]) of probabilities of experts, [1], of q's dtype, float32 or float64. The gradient flows to q alone;
/// options.squares gets those of the gradient with respect to logits whose softmax q is.
Var match_routing(Tape& tape, const Var& q /*[T,E]*/, const Tensor& p /*[T,E]*/, const Tensor& targets /*[T] int32*/,
                  const Tensor& weights /*[T] float64*/, const MatchOptions& options = {});

}  // namespace limbeck::core
