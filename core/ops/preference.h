// Direct preference optimisation: pairs of responses become weights of their tokens, with which the head's backward is
// that of a language model (docs/gradients.md).
//
//     LossAccumulator said(memory, /*keeps_each=*/true);                  // of the model, and of the reference as its
//     teacher head_loss(off, hidden, head, targets, LanguageModelling(), &reference, comm, options, said);
//     options.row_weights = preference_weights(said.each(), batch.document, batch.sequence_offsets, beta, totals);
//     Var loss = head_loss(tape, hidden, head, targets, LanguageModelling(), nullptr, comm, options, unused);
#pragma once

#include "core/tensor.h"
#include "kernels/preference.h"

namespace limbeck::core {

/// What each token [T] weighs in the gradient of cross-entropy so that it is that of the pairs' losses, times the
/// number of pairs of the step. A sequence is a pair, as kernels::preference has it. `each` [T,num_loss_columns]
/// float64; the pairs' columns are added to totals [num_preference_columns] float64.
Tensor preference_weights(const Tensor& each, const Tensor& document, const Tensor& sequence_offsets, double beta,
                          Tensor& totals);

}  // namespace limbeck::core
