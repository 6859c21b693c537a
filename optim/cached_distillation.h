// Distillation from a teacher of which a part is kept (core/ops/sparse_targets.h), as a teacher cache has it.
//
//     CachedDistillation objective({.ce_weight = 0.1, .temperature = 1});
//     SparseTeacher teacher(targets);
//     Var loss = head_loss(tape, hidden, head, targets, objective, &teacher, comm, options, losses);
#pragma once

#include "core/ops/objective.h"

namespace limbeck::optim {

struct CachedDistillationOptions {
  double ce_weight = 0.5;     // alpha
  double temperature = 1;     // T, which the targets have to be of
  bool renormalised = false;  // both sides are scaled to sum 1 over the kept tokens, instead of a ghost bucket
};

/// alpha CE + (1 - alpha) T^2 KL_T, where KL is over the kept tokens and all others as one outcome; of draws an
/// unbiased estimate of it over all.
class CachedDistillation final : public core::Objective {
 public:
  /// Throws unless 0 <= alpha <= 1 and T > 0.
  explicit CachedDistillation(const CachedDistillationOptions& options) { set(options); }
  bool needs_teacher() const override { return true; }
  /// Throws for a chunk without sparse targets, or with such of another temperature, and for draws that are to be
  /// renormalised.
  void run(core::LogitsChunk& chunk, core::LossAccumulator& losses) const override;
  /// Others from here on. Throws as the constructor.
  void set(const CachedDistillationOptions& options);

 private:
  CachedDistillationOptions options_;
};

}  // namespace limbeck::optim
