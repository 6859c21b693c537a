// A reward head: a number for each response of a pair, of its last token's hidden state, and the loss by which the
// preferred one's comes to be the greater (docs/gradients.md).
//
//     Var loss = reward_loss(tape, hidden /*[T,C]*/, weight /*[1,C]*/, batch.document, batch.sequence_offsets,
//                            {.center = 0.01, .scale = per_pair}, totals);
//     Tensor rewards = pair_rewards(hidden, weight, batch.document, batch.sequence_offsets);     // [N,2]
#pragma once

#include "core/tape.h"
#include "kernels/reward.h"

namespace limbeck::core {

struct RewardOptions {
  double center = 0;  // of the square of a pair's sum of rewards, which the loss has more
  Tensor scale = {};  // [1] float64, which the loss is times: 1 / the step's pairs
};

/// -log sigmoid(margin) + center (chosen + rejected)^2, summed over the pairs, times scale, [1], of weight's dtype:
/// float32 for bfloat16 hidden states, else theirs. A weight of bfloat16 is widened. A sequence is a pair, as
/// kernels::response_rewards has it; the pairs' columns are added to totals [num_preference_columns] float64.
Var reward_loss(Tape& tape, const Var& hidden /*[T,C]*/, const Var& weight /*[1,C]*/,
                const Tensor& document /*[T] int32*/, const Tensor& sequence_offsets /*[N+1] int64*/,
                const RewardOptions& options, Tensor& totals);

/// The rewards of the chosen and the rejected responses, [N,2] float64.
Tensor pair_rewards(const Tensor& hidden, const Tensor& weight, const Tensor& document, const Tensor& sequence_offsets);

}  // namespace limbeck::core
