// How far a model moved from its teacher, by the hidden states that it ends in: what greedy_layers asks for. The
// teacher's logits are the same for every model that is tried, so they are kept where there is room.
//
//     LayerKl kl(rank, *teacher, batches, tokenizer->vocabulary_size());
//     nn::greedy_layers(*teacher, batches, 256, 15, std::ref(kl), *rank.comms().batch);
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "core/nn/student/greedy_layers.h"
#include "launch/run/rank.h"

namespace limbeck::launch {

class LayerKl {
 public:
  /// Up to so many bytes of logits are kept.
  static constexpr std::int64_t most_bytes = std::int64_t{1} << 29U;

  /// Runs the teacher over the batches, which are used as long as this is. Tokens from `valid_vocabulary` on are
  /// padding; -1: none is.
  LayerKl(Rank& rank, const nn::Transformer& teacher, std::span<const nn::Batch> batches, std::int64_t valid_vocabulary,
          std::int64_t most = most_bytes);

  /// Of the teacher's own head on `hidden`; of tokens with a target. Collective over a tensor group.
  nn::KlSum operator()(std::size_t batch, const core::Tensor& hidden, std::int64_t first, std::int64_t count) const;

 private:
  Rank& rank_;
  const nn::Transformer& teacher_;
  std::span<const nn::Batch> batches_;
  std::int64_t valid_vocabulary_;
  std::vector<core::Tensor> hidden_;  // of the teacher, by batch [T,C]
  std::vector<core::Tensor> logits_;  // [T,V_local]; empty where they are not kept
};

}  // namespace limbeck::launch
