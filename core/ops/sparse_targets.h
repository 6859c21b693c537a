// What is known of a teacher that did not run: of each token's distribution the log-probabilities of some tokens and of
// all others together, or draws (kernels/sparse_targets.h).
//
//     CachedTeacher teacher(targets);                              // a TargetSource of head_loss
//     SparseTargets some = targets.rows(first, count);
#pragma once

#include "core/ops/head_loss.h"

namespace limbeck::core {

/// The teacher of a batch, as head_loss asks for it.
class SparseTeacher final : public TargetSource {
 public:
  explicit SparseTeacher(SparseTargets targets);
  bool is_sparse() const override { return true; }
  Tensor logits(std::int64_t first, std::int64_t count) override;
  SparseTargets sparse(std::int64_t first, std::int64_t count) override { return targets_.rows(first, count); }

 private:
  SparseTargets targets_;
};

}  // namespace limbeck::core
