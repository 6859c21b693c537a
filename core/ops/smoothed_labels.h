// A teacher that knows nothing but the text: labels, smoothed.
//
//     SmoothedLabels labels(batch.targets, 0.4, vocabulary, head.shape()[0], offset, DType::F32);   // for head_loss
#pragma once

#include "core/ops/head_loss.h"

namespace limbeck::core {

/// Of each token with a target the distribution (1 - smoothing) at the target + smoothing / vocabulary everywhere
/// (Szegedy et al. 2016, arXiv 1512.00567, section 7); the KL to it differs from the smoothed cross-entropy by a
/// constant.
class SmoothedLabels final : public TargetSource {
 public:
  /// Logits [count,columns] of tokens from `offset` on, of a dtype (float32 or float64). Throws unless
  /// 0 < smoothing < 1.
  SmoothedLabels(Tensor targets /*[T] int32, -1: none*/, double smoothing, std::int64_t vocabulary,
                 std::int64_t columns, std::int64_t offset, DType dtype);
  Tensor logits(std::int64_t first, std::int64_t count) override;

 private:
  Tensor targets_;
  double log_odds_;  // of the target against any other token
  std::int64_t columns_, offset_;
  DType dtype_;
  Tensor buffer_;
};

}  // namespace limbeck::core
