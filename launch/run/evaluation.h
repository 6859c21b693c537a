// How a model does on a text, and on the fixed held-out sample of a run's own, against a teacher or alone. The held-out
// sample's hidden states of the teacher are computed once and kept; its logits are formed again by the chunk, never
// whole.
//
//     HeldOut held_out(rank, {.samples = loader.held_out_batch(32)}, teacher.get());
//     Evaluation before = held_out.evaluate(student).held_out;
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/nn/transformer.h"
#include "data/text/loader.h"
#include "data/tokenizers/tokenizer.h"
#include "launch/run/cached_teacher.h"
#include "launch/run/expert_load.h"
#include "launch/run/other_teachers.h"
#include "launch/run/rank.h"
#include "launch/run/token_figures.h"
#include "launch/run/tokenizer_bridge.h"

namespace limbeck::launch {

/// Means over pairs of a preferred and another response.
struct PreferenceResult {
  double loss = 0;      // -log sigmoid(margin), and what objective.reward.center adds
  double accuracy = 0;  // share whose margin is above 0
  double margin = 0;    // the chosen response's reward less the rejected one's
  double chosen = 0;    // rewards: beta (log pi - log ref) of the responses, or what a reward head gives
  double rejected = 0;

  PreferenceResult() = default;
  /// Of sums [num_preference_columns] over pairs (kernels/preference.h).
  explicit PreferenceResult(std::span<const double> sums);
};

/// Of the rewards of chosen and rejected responses. `center`: objective.reward's.
PreferenceResult preference_of(std::span<const std::array<double, 2>> rewards, double center);
/// Means over the spans of text between two borders that the tokens of model and teacher share (kernels/spans.h).
struct SpanResult {
  std::int64_t spans = 0;            // 0: the means are too
  double kl = 0;                     // nats a span
  double share = 0;                  // of the model's targets that are in a span
  double bits_per_byte = 0;          // of the spans, by the model
  double teacher_bits_per_byte = 0;  // and by the teacher

  SpanResult() = default;
  /// Of sums [num_span_columns], and how many targets there are.
  SpanResult(std::span<const double> sums, double targets);
};

/// Means over the places where model and teacher of other tokens predict the same bytes (kernels/sorted_rows.h).
struct SortedResult {
  std::int64_t pairs = 0;  // 0: the mean is too
  double distance = 0;     // of the sorted distributions, 0 to 2
  double share = 0;        // of the model's targets that have a pair

  SortedResult() = default;
  /// Of sums [num_sorted_columns], and how many targets there are.
  SortedResult(std::span<const double> sums, double targets);
};

/// Of a model whose experts choose tokens in training (routing.expert_choice), where all else is of tokens that choose.
struct ChoiceResult {
  double kl = 0;             // from the probabilities where experts choose to those where tokens do
  double cross_entropy = 0;  // where experts choose
};

/// Means over the tokens that are predicted; natural logarithms.
struct Evaluation {
  std::int64_t tokens = 0;  // 0: nothing was measured
  double cross_entropy = 0;
  // With a teacher only:
  double teacher_cross_entropy = 0;
  double kl = 0;                                   // teacher to model, forward
  std::optional<double> kl_median = std::nullopt;  // over the tokens; the value at place floor(q (n - 1)) of n sorted
  std::optional<double> kl_p90 = std::nullopt;
  std::optional<double> kl_p99 = std::nullopt;
  double agreement = 0;                              // share of positions whose most likely token is the teacher's
  double sum_min = 0;                                // sum of min(p, q): expected acceptance in speculative decoding
  std::optional<std::int64_t> bytes = std::nullopt;  // of UTF-8 that were predicted; nothing where that is not known
  std::optional<ModelLoad> load = std::nullopt;      // of a model with experts, where it was looked at
  std::optional<double> calibration_error = std::nullopt;          // Calibration::error
  std::optional<double> teacher_calibration_error = std::nullopt;  // the teacher's, of the same tokens
  std::optional<double> document_cross_entropy = std::nullopt;     // mean of those of a text's documents
  std::optional<PreferenceResult> preference = std::nullopt;       // of held-out pairs, against the teacher if any
  std::optional<SpanResult> spans = std::nullopt;                  // against a teacher of other tokens
  std::optional<SortedResult> sorted = std::nullopt;               // likewise, where a student learns by that
  std::optional<ChoiceResult> choice = std::nullopt;
  Known known = Known::Whole;  // of the teacher: what kl and sum_min are, and which of them count

  bool has_teacher() const { return teacher_cross_entropy > 0; }
  /// By a reward head: of pairs alone, for no token is predicted.
  bool is_of_rewards() const { return preference && !has_teacher(); }
  double perplexity() const;                          // exp(cross_entropy)
  std::optional<double> bits_per_byte() const;        // nats of all tokens / (bytes ln 2)
  std::optional<double> byte_perplexity() const;      // exp(nats of all tokens / bytes)
  std::optional<double> document_perplexity() const;  // exp(document_cross_entropy)
};

/// Those against a teacher, by their names, which say what they are of: none without one.
std::vector<std::pair<std::string_view, double>> teacher_figures(const Evaluation& evaluation);
/// kl and sum_min as a table has them: a bound is marked, and "-" is none.
std::string kl_text(const Evaluation& evaluation, std::optional<double> kl);
std::string sum_min_text(const Evaluation& evaluation);

/// Without what takes more than sums: quantiles, documents, load.
Evaluation evaluation_of(const FigureSums& sums, std::optional<std::int64_t> bytes, std::optional<Known> teacher);
/// The quantiles of these values, one a token; of estimates there are none.
void set_kl_quantiles(Evaluation& evaluation, std::vector<double> kl);

using NamedEvaluations = std::vector<std::pair<std::string, Evaluation>>;

/// What was measured of a model at some time.
struct Measurement {
  Evaluation held_out;    // of no tokens where it was not measured
  NamedEvaluations sets;  // of the config, and of a mixture's held-out sample "held_out/SOURCE"

  bool is_empty() const { return held_out.tokens == 0 && sets.empty(); }
};

/// What is held out of a run's text.
struct HeldOutText {
  data::TokenBatch samples;                 // the same on every rank
  std::vector<std::string> sources = {};    // names of a mixture's sources; empty where there is one text
  std::vector<std::size_t> source_of = {};  // [num_sequences], of a mixture
  double preference_beta = 0;               // of pairs, each a sequence, against a teacher; 0: there are none
  double reward_center = 0;                 // objective.reward's, of pairs too
  bool is_sorted = false;                   // over a bridge: sorted distributions are compared too
  nn::RouterTraining router = {};           // of training, where its experts choose tokens: that is measured beside
};

class HeldOut {
 public:
  /// Collective. Each rank takes its share of the samples. `teacher` may be null and is used only here. Tokens from
  /// `valid_vocabulary` on are padding in every head; -1: none is. Bytes are known where there is a tokenizer. `bridge`
  /// (null: none) has a teacher of other tokens, and is used only here too, unless the text is_sorted. `others`, where
  /// it is not null, teach beside the teacher: figures are against the mean of all. `cached` stands in the teacher's
  /// place, and has all of the text.
  HeldOut(Rank& rank, HeldOutText text, const nn::Transformer* teacher, std::int64_t valid_vocabulary = -1,
          const data::Tokenizer* tokenizer = nullptr, const TokenizerBridge* bridge = nullptr,
          const OtherTeachers* others = nullptr, const CachedTeacher* cached = nullptr);

  /// Collective. `model` is cut over the rank's mesh, or a copy on every tensor group. The sets are the sources that
  /// have a sequence in the sample. Throws where the model's loss, or a reward, is not finite. A model with a reward
  /// head is measured by pairs alone.
  Measurement evaluate(const nn::Transformer& model);
  using Rewards = std::vector<std::array<double, 2>>;  // of the responses of each sequence, a pair
  /// Collective. By a model with a reward head, whose experts' load is counted. Throws where one is not finite.
  Rewards rewards_of(const nn::Transformer& model, LoadCounter& load) const;
  /// Collective. A model that gives every token its share of `counts` plus one, whatever came before.
  Evaluation evaluate_unigram(const std::vector<std::int64_t>& counts);
  std::int64_t num_tokens() const;  // that are predicted
  /// Whether a sequence of the sample is of the source of this name.
  bool has_source(const std::string& name) const;

 private:
  struct Part {  // some of this rank's sequences
    nn::Batch batch;
    std::vector<core::TeacherOutput> teachers;        // heads are cut like every head; empty without a teacher
    std::optional<BridgedBatch> read = std::nullopt;  // where sorted distributions are compared
    core::Tensor read_hidden = {};                    // the teacher's of that
    data::TokenBatch text = {};                       // the batch as a cache is asked for it
  };
  using Forward = std::function<core::Tensor(const Part&)>;
  /// `head` and its bias, if it is defined: this rank's part of the vocabulary.
  Measurement measure(const Forward& hidden_of, const core::Tensor& head, const core::Tensor& bias,
                      const core::VocabularyPart& vocabulary);
  /// Adds what a part's sorted distributions differ by to totals [num_sorted_columns].
  void add_sorted(const Part& part, const core::Tensor& hidden, const core::Tensor& head, const core::Tensor& bias,
                  const core::VocabularyPart& vocabulary, const core::Tensor& totals) const;
  /// Of the tokens with a target, in order.
  void set_rows(const Part& part, const std::vector<TokenFigures>& figures, TokenRows& rows) const;
  Measurement summary(const TokenRows& tokens) const;
  ChoiceResult choice_of(const nn::Transformer& model) const;
  /// Nothing but how many tokens there are, in all and of each source.
  Measurement counted() const;
  Rewards rewards_of(const TokenRows& tokens) const;
  /// What these say of all pairs, and of those of each source that is in `result`.
  void add_preferences(const Rewards& rewards, double center, Measurement& result) const;
  void add_spans(const data::TokenBatch& sequences, std::int64_t first, Part& part);
  SpanResult spans(const TokenRows& tokens) const;

  Rank& rank_;
  HeldOutText text_;
  const TokenizerBridge* bridge_;
  std::vector<std::int64_t> sequence_bytes_;  // that are predicted; empty where they are not known
  struct OfSpan {
    std::int64_t first, count, bytes;  // of the model's targets in the sample
    double teacher_ce;
  };
  std::optional<std::vector<OfSpan>> spans_;  // of this rank's sequences; nothing without a bridge
  std::vector<Part> parts_;                   // equally many on every rank; some may have no tokens
  std::optional<Known> teacher_;              // what is known of it; nothing without one
  std::unique_ptr<CachedTeacher> cached_;     // null: it runs, or there is none
  std::int64_t valid_vocabulary_;
};

}  // namespace limbeck::launch
