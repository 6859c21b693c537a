// Training objectives over a chunk of logits. q is the student's, p the teacher's distribution.
//
//     Distillation objective({.ce_weight = 0.1, .temperature = 1});     // 0.1 CE + 0.9 KL(p || q)
//     Var loss = head_loss(tape, hidden, head, targets, objective, &teacher, comm, options, losses);
#pragma once

#include "core/ops/objective.h"
#include "kernels/divergence.h"

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
  kernels::Divergence divergence = kernels::Divergence::ForwardKl;
  double mix = 0.5;  // of the divergences that mix both distributions (kernels/divergence.h), 0 to 1
};

/// alpha CE + (1 - alpha) T^2 D(p_T, q_T), distributions at temperature T (Hinton, Vinyals, Dean 2015; the divergences
/// of Agarwal et al. 2024, "On-policy distillation of language models", and of Ko et al. 2024, "DistiLLM").
class Distillation final : public core::Objective {
 public:
  /// Throws unless 0 <= alpha <= 1, T > 0 and 0 <= mix <= 1, of the skew KLs below 1, where they are 0. A mix of 0 or 1
  /// gives what the divergence goes to there: JensenShannon KL(p || q) with 0 and KL(q || p) with 1, SkewKl KL(p || q)
  /// and ReverseSkewKl KL(q || p) with 0.
  explicit Distillation(const DistillationOptions& options) { set(options); }
  bool needs_teacher() const override { return true; }
  void run(core::LogitsChunk& chunk, core::LossAccumulator& losses) const override;

  /// Others from here on. Throws as the constructor.
  void set(const DistillationOptions& options);

 private:
  DistillationOptions options_;
};

}  // namespace limbeck::optim
