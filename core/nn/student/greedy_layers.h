// Which layers of a model to keep, chosen by what their loss does to its predictions: one is dropped after another,
// each time the one without which the model stays nearest to what it was.
//
//     GreedyLayers chosen = greedy_layers(teacher, {batches, {1, 2, 4}}, 15, kl_of_hidden, *comms.batch);
//     LayerSkip student_source(reader, teacher.config().num_layers, chosen.kept);
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "core/nn/transformer.h"

namespace limbeck::nn {

/// A layer that was dropped, and KL(model || what is left) without it and those before it, nats a token.
struct DroppedLayer {
  std::int64_t layer = 0;
  double kl = 0;
};

struct GreedyLayers {
  std::vector<std::int64_t> kept;     // ascending
  std::vector<DroppedLayer> dropped;  // in their order
  std::int64_t runs = 0;              // models that were looked at,
  std::int64_t whole_runs = 0;        // and those that were seen on all tokens
};

/// A rank's share of the text that a model is looked at on. Every rank has equally many batches, perhaps of no tokens.
struct GreedyText {
  std::span<const Batch> batches;
  std::vector<std::size_t> stages;  // each ends before this batch, the last before the end
};

/// What of a search is left out. With {true, infinity} every layer is tried in every round, and the one is dropped
/// without which the KL on all tokens is least.
struct GreedyEffort {
  /// Otherwise a layer is not tried whose KL, when it was tried last, is above the least of this round: to drop other
  /// layers has not made up for it (lazy greedy search, Minoux 1978).
  bool tries_all = false;
  /// A layer is given up at the end of a stage when its KL on the tokens seen so far exceeds that of the best one of
  /// the round by more than so many standard errors of their difference, token by token.
  double errors = 3;
};

/// KL(p || q) of the tokens of a batch that count, in order, q by the hidden states [T,C] that leave the model's last
/// norm.
using KlOfHidden = std::function<std::vector<double>(std::size_t batch, const Tensor& hidden)>;

/// Drops layers of a model with embedding and head until `keep` are left, by the KL on the batches of all ranks of
/// `ranks`. What is not less by a millionth is a tie, of which the last layer is dropped.
///
/// Layers before the one that is tried are not run again. Those likely to be the best are tried first: by their KL when
/// they were tried last, at first by block influence (influence.h). A model is given up also where the tokens seen so
/// far exceed the best sum of all: the KL of a token is not negative.
GreedyLayers greedy_layers(const Transformer& model, const GreedyText& text, std::int64_t keep, const KlOfHidden& kl,
                           BatchComm& ranks, const GreedyEffort& effort = {});

}  // namespace limbeck::nn
