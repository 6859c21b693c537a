// Training objectives over a chunk of logits. q is the student's, p the teacher's distribution.
//
//     Distillation objective({.ce_weight = 0.1, .temperature = 1});     // 0.1 CE + 0.9 KL(p || q)
//     Var loss = head_loss(tape, hidden, head, targets, objective, &teacher, comm, options, losses);
#pragma once

#include "core/ops/objective.h"

namespace limbeck::optim {

/// Cross-entropy, -log q(target).
class LanguageModelling final : public core::Objective {
 public:
  bool needs_teacher() const override { return false; }
  /// With a teacher in the chunk what it loses is added too.
  void run(core::LogitsChunk& chunk, core::LossAccumulator& losses) const override;
};

struct DistillationOptions {
  double ce_weight = 0.5;  // alpha
  double temperature = 1;  // T
};

/// alpha CE + (1 - alpha) T^2 KL(p_T || q_T), distributions at temperature T (Hinton, Vinyals, Dean 2015).
class Distillation final : public core::Objective {
 public:
  /// Throws unless 0 <= alpha <= 1 and T > 0.
  explicit Distillation(const DistillationOptions& options);
  bool needs_teacher() const override { return true; }
  void run(core::LogitsChunk& chunk, core::LossAccumulator& losses) const override;

 private:
  DistillationOptions options_;
};

}  // namespace limbeck::optim
