// How far a model moved from its teacher, by the hidden states that it ends in: what greedy_layers asks for. Both have
// the teacher's own head, so the cross-entropy and its gradient at the teacher's hidden states say all of the teacher
// that is needed, and its logits are formed once.
//
//     LayerKl kl(rank, *teacher, batches, tokenizer->vocabulary_size());
//     nn::greedy_layers(*teacher, {batches, {1, 2, 4}}, 15, std::ref(kl), *rank.comms().batch);
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "core/nn/student/greedy_layers.h"
#include "launch/run/rank.h"

namespace limbeck::launch {

class LayerKl {
 public:
  /// Runs the teacher over the batches, which are used as long as this is. Tokens from `valid_vocabulary` on are
  /// padding; -1: none is.
  LayerKl(Rank& rank, const nn::Transformer& teacher, std::span<const nn::Batch> batches,
          std::int64_t valid_vocabulary);

  /// KL(p || q) of the tokens with a target, q of the teacher's own head on `hidden` [T,C]. With z = W h, and the
  /// target y, CE(h) = logsumexp(z) - z_y; its Bregman divergence is the KL, for what is linear in h falls out of it:
  /// KL(p_h || p_g) = CE(g) - CE(h) - <dCE/dh, g - h>. Collective over a tensor group.
  std::vector<double> operator()(std::size_t batch, const core::Tensor& hidden) const;

 private:
  /// Of the teacher, for the tokens of a batch that have a target, in order.
  struct Origin {
    std::vector<double> cross_entropy;
    std::vector<double> hidden, gradient;  // [n,C]
  };
  std::vector<double> cross_entropies(core::Tape& tape, std::size_t batch, const nn::Var& hidden) const;
  /// The rows of [T,C] that have a target.
  std::vector<double> rows_of(std::size_t batch, const core::Tensor& values) const;

  Rank& rank_;
  const nn::Transformer& teacher_;
  std::span<const nn::Batch> batches_;
  std::int64_t valid_vocabulary_;
  std::vector<std::vector<std::int32_t>> targets_;
  std::vector<Origin> origins_;
};

}  // namespace limbeck::launch
