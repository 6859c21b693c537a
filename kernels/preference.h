// Direct preference optimisation (Rafailov et al. 2023): of pairs of responses, one preferred, what each pair loses and
// what each of its tokens weighs in the gradient (docs/gradients.md).
//
//     preference(cpu, each, document, offsets, n, beta, token_weights, of_pairs);
//     column_sums(cpu, of_pairs, /*add=*/true, totals, n, num_preference_columns);
#pragma once

#include <cmath>
#include <cstdint>

#include "device_set.h"

namespace limbeck::kernels {

/// What is known of a pair. A reward is beta (log pi - log ref) of a response, summed over its targets.
enum PreferenceColumn : std::int64_t {
  PreferencePairs,     // 1
  PreferenceLoss,      // -log sigmoid(margin)
  PreferenceRight,     // 1 where the margin is above 0
  PreferenceMargin,    // the chosen response's reward less the rejected one's
  PreferenceChosen,    // the chosen response's reward
  PreferenceRejected,  // the rejected one's
  num_preference_columns,
};

/// A pair's row from its rewards, and what a token of the chosen response weighs in the gradient of cross-entropy:
/// beta sigmoid(-margin); one of the rejected response weighs as much, negated. Alike on every device. Real is double.
template <class Real>
constexpr Real preference_row(Real chosen, Real rejected, double beta, Real* row) {
  const Real margin = chosen - rejected;
  const Real e = std::exp(margin < 0 ? margin : -margin);  // at most 1
  row[PreferencePairs] = 1;
  row[PreferenceLoss] = std::log1p(e) + (margin < 0 ? -margin : 0);
  row[PreferenceRight] = margin > 0 ? 1 : 0;
  row[PreferenceMargin] = margin;
  row[PreferenceChosen] = chosen;
  row[PreferenceRejected] = rejected;
  return beta * (margin < 0 ? 1 : e) / (1 + e);
}

/// Sequence i, tokens [offsets[i], offsets[i+1]), is a pair: its document 0 has the chosen response, document 1 the
/// rejected one; others count for nothing. each [T,num_loss_columns] has the losses of model and reference, zeros
/// where there is no target. token_weights [T]; of_pairs [n,num_preference_columns]. A response's sum has one order.
template <class D>
void preference(const D& device, const double* each, const std::int32_t* document, const std::int64_t* offsets,
                std::int64_t n, double beta, double* token_weights, double* of_pairs);

}  // namespace limbeck::kernels
