// Distillation from a teacher of other tokens by what the two sorted distributions differ by, where both predict what
// begins at the same byte (kernels/sorted_rows.h).
//
//     SortedDistillation objective(0.1);                                   // 0.1 CE + 0.9 of the distance
//     PairedTeacher teacher(...);
//     Var loss = head_loss(tape, hidden, head, targets, objective, &teacher, comm, options, losses);
#pragma once

#include "core/ops/objective.h"

namespace limbeck::optim {

/// alpha CE + (1 - alpha) sum over the ranks |q - p| where a token has a pair, alpha CE elsewhere; without a teacher
/// CE. Of the losses' objective the distance is no part: it is in the pairs' totals. Where the vocabulary is cut over
/// ranks each of them has a chunk's logits whole and sorts all of its rows.
class SortedDistillation final : public core::Objective {
 public:
  /// Throws unless 0 <= alpha <= 1.
  explicit SortedDistillation(double ce_weight) { set(ce_weight); }
  bool needs_teacher() const override { return false; }
  void run(core::LogitsChunk& chunk, core::LossAccumulator& losses) const override;
  /// Another from here on. Throws as the constructor.
  void set(double ce_weight);

 private:
  double ce_weight_ = 0;
};

}  // namespace limbeck::optim
