// Which layers of a model to keep, chosen by what their loss does to its predictions: one is dropped after another,
// each time the one without which the model stays nearest to what it was.
//
//     GreedyLayers chosen = greedy_layers(teacher, batches, 256, 15, kl_of_hidden, *comms.batch);
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

/// KL(p || q) summed over some tokens of a batch, and how many of them count.
struct KlSum {
  double kl = 0;
  double tokens = 0;
};
/// Of tokens [first, first + count) of a batch, q by the hidden states [count,C] that leave the model's last norm.
using KlOfHidden =
    std::function<KlSum(std::size_t batch, const Tensor& hidden, std::int64_t first, std::int64_t count)>;

/// Drops layers of a model with embedding and head until `keep` are left, by the KL on the batches of all ranks of
/// `ranks`, which each have equally many, of at most `longest` tokens, perhaps of none. What is not less by a millionth
/// is a tie, of which the last layer is dropped.
///
/// Layers before the one that is tried are not run again. The KL of a token is not negative: a model is given up as
/// soon as the tokens seen so far exceed the best sum of all, which changes nothing of what comes out. Those likely to
/// be the best come first: by what they were at when the last layer was dropped, at first by block influence
/// (influence.h).
GreedyLayers greedy_layers(const Transformer& model, std::span<const Batch> batches, std::int64_t longest,
                           std::int64_t keep, const KlOfHidden& kl, BatchComm& ranks);

}  // namespace limbeck::nn
