// How a model does on a fixed held-out sample, against a teacher or alone. The teacher's hidden states are computed
// once and kept; its logits are formed again by the chunk, never whole.
//
//     HeldOut held_out(rank, loader.held_out_batch(32), teacher.get());
//     Evaluation before = held_out.evaluate(student);
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "core/nn/transformer.h"
#include "core/ops/head_loss.h"
#include "data/text/loader.h"
#include "launch/run/rank.h"

namespace limbeck::launch {

/// Means over the sample's valid targets; natural logarithms.
struct Evaluation {
  std::int64_t tokens = 0;  // valid targets
  double cross_entropy = 0;
  // With a teacher only:
  double teacher_cross_entropy = 0;
  double kl = 0;  // teacher to model, forward
  double kl_median = 0;
  double kl_p99 = 0;
  double agreement = 0;  // share of positions whose most likely token is the teacher's
  double sum_min = 0;    // sum of min(p, q): expected acceptance in speculative decoding
};

/// The fields of metrics.jsonl at an evaluation: eval_ce, and with a teacher eval_kl, eval_top1_agreement,
/// eval_sum_min, ....
nlohmann::ordered_json to_json(const Evaluation& evaluation);

class HeldOut {
 public:
  /// Collective. `samples`: the same on every rank; each takes its share. `teacher` may be null and is used only here.
  /// Tokens from `valid_vocabulary` on are padding in every head; -1: none is.
  HeldOut(Rank& rank, data::TokenBatch samples, const nn::Transformer* teacher, std::int64_t valid_vocabulary = -1);

  /// Collective. `model` is cut over the rank's mesh, or a copy on every tensor group.
  Evaluation evaluate(const nn::Transformer& model);
  /// Collective. A model that gives every token its share of `counts` plus one, whatever came before.
  Evaluation evaluate_unigram(const std::vector<std::int64_t>& counts);
  std::int64_t num_tokens() const { return static_cast<std::int64_t>(samples_.tokens.size()); }

 private:
  struct Part {  // some of this rank's sequences
    nn::Batch batch;
    core::Tensor teacher_hidden;  // undefined without a teacher
  };
  using Forward = std::function<core::Tensor(const Part&)>;
  /// `head`: this rank's part of the vocabulary.
  Evaluation measure(const Forward& hidden_of, const core::Tensor& head, std::int64_t vocabulary_offset);

  Rank& rank_;
  data::TokenBatch samples_;
  std::vector<Part> parts_;    // equally many on every rank; some may have no tokens
  core::Tensor teacher_head_;  // cut like every head
  std::int64_t valid_vocabulary_;
};

}  // namespace limbeck::launch
