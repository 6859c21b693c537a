#include "launch/run/evaluation.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <numbers>
#include <numeric>

#include "core/slice.h"
#include "kernels/preference.h"
#include "launch/run/batch.h"

namespace limbeck::launch {
namespace {

using core::Tensor;

constexpr std::int64_t tokens_per_part = 1024;

double quantile(std::vector<double>& values, double q) {
  const auto at = static_cast<std::size_t>(q * static_cast<double>(values.size() - 1));
  std::nth_element(values.begin(), values.begin() + static_cast<std::ptrdiff_t>(at), values.end());
  return values[at];
}

/// Bytes of the tokens that each sequence predicts. Start and end of text stand for none.
std::vector<std::int64_t> bytes_by_sequence(const data::TokenBatch& samples, const data::Tokenizer& tokenizer) {
  std::vector<std::int64_t> bytes(static_cast<std::size_t>(samples.num_sequences));
  for (std::size_t t = 0; t < samples.targets.size(); ++t) {
    const std::int32_t id = samples.targets[t];
    if (id < 0 || id == tokenizer.end_of_text_id() || id == tokenizer.start_of_text_id()) continue;
    bytes[t / static_cast<std::size_t>(samples.sequence_length)] +=
        static_cast<std::int64_t>(tokenizer.decode_inside(id).size());
  }
  return bytes;
}

}  // namespace

PreferenceResult::PreferenceResult(std::span<const double> sums) {
  const double n = sums[kernels::PreferencePairs];
  loss = sums[kernels::PreferenceLoss] / n;
  accuracy = sums[kernels::PreferenceRight] / n;
  margin = sums[kernels::PreferenceMargin] / n;
  chosen = sums[kernels::PreferenceChosen] / n;
  rejected = sums[kernels::PreferenceRejected] / n;
}

double Evaluation::perplexity() const { return std::exp(cross_entropy); }

std::optional<double> Evaluation::bits_per_byte() const {
  if (!bytes || *bytes == 0) return std::nullopt;
  return cross_entropy * static_cast<double>(tokens) / (static_cast<double>(*bytes) * std::numbers::ln2);
}

std::optional<double> Evaluation::byte_perplexity() const {
  const auto bits = bits_per_byte();
  return bits ? std::optional(std::exp2(*bits)) : std::nullopt;
}

std::optional<double> Evaluation::document_perplexity() const {
  return document_cross_entropy ? std::optional(std::exp(*document_cross_entropy)) : std::nullopt;
}

void set_kl_quantiles(Evaluation& evaluation, std::vector<double> kl) {
  if (kl.empty()) return;
  evaluation.kl_median = quantile(kl, 0.5);
  evaluation.kl_p90 = quantile(kl, 0.9);
  evaluation.kl_p99 = quantile(kl, 0.99);
}

Evaluation evaluation_of(const FigureSums& sums, std::optional<std::int64_t> bytes) {
  const double n = std::max(1.0, sums.tokens);
  return {.tokens = std::llround(sums.tokens),
          .cross_entropy = sums.ce / n,
          .teacher_cross_entropy = sums.teacher_ce / n,
          .kl = sums.kl / n,
          .agreement = sums.agreement / n,
          .sum_min = sums.sum_min / n,
          .bytes = bytes,
          .calibration_error = sums.calibration.error(),
          .teacher_calibration_error = sums.teacher_calibration.error()};
}

HeldOut::HeldOut(Rank& rank, HeldOutText text, const nn::Transformer* teacher, std::int64_t valid_vocabulary,
                 const data::Tokenizer* tokenizer, const OtherTeachers* others)
    : rank_(rank), text_(std::move(text)), has_teacher_(teacher != nullptr), valid_vocabulary_(valid_vocabulary) {
  const data::TokenBatch& samples = text_.samples;
  if (tokenizer != nullptr) sequence_bytes_ = bytes_by_sequence(samples, *tokenizer);
  const std::int64_t ranks = rank.mesh().dp().size();
  const core::Slice mine = core::slice_of(samples.num_sequences, rank.mesh().dp().rank(), ranks);
  const std::int64_t per_part = std::max<std::int64_t>(1, tokens_per_part / samples.sequence_length);
  const std::int64_t most = (samples.num_sequences + ranks - 1) / ranks;
  for (std::int64_t done = 0; done < most; done += per_part) {
    const std::int64_t skipped = std::min(done, mine.count);
    const std::int64_t first = mine.first + skipped, count = std::min(per_part, mine.count - skipped);
    Part part{make_batch(rank.memory(), samples, first, count), {}};
    std::optional<TokenShares> shares;
    if (others != nullptr) shares = others->shares_of(rank.memory(), samples, first, count);
    if (teacher && (!shares || others->runs(*shares, 0))) {
      core::Tape off(core::Tape::Mode::Off);
      Tensor hidden = teacher->forward(off, teacher->pass(part.batch)).hidden.value;
      if (!shares || shares->teaches[0])
        part.teachers.push_back({std::move(hidden), teacher->head().value, teacher->head_bias().value,
                                 shares ? shares->values[0] : Tensor()});
    }
    if (shares) others->give(part.batch, *shares, part.teachers);
    parts_.push_back(std::move(part));
  }
}

std::int64_t HeldOut::num_tokens() const { return text_.samples.num_targets(); }

bool HeldOut::has_source(const std::string& name) const {
  return std::any_of(text_.source_of.begin(), text_.source_of.end(),
                     [&](std::size_t source) { return text_.sources[source] == name; });
}

Measurement HeldOut::measure(const Forward& hidden_of, const Tensor& head, const Tensor& bias,
                             std::int64_t vocabulary_offset) {
  TokenRows rows(rank_, static_cast<std::int64_t>(text_.samples.targets.size()), has_teacher_);
  for (const Part& part : parts_) {
    const std::vector<TokenFigures> figures = token_figures(rank_, part.batch.targets,
                                                            {.hidden = hidden_of(part),
                                                             .head = head,
                                                             .head_bias = bias,
                                                             .vocabulary_offset = vocabulary_offset,
                                                             .teachers = part.teachers},
                                                            valid_vocabulary_);
    auto figure = figures.begin();
    for (const std::int64_t token : core::host_values<std::int64_t>(part.batch.global_index))
      if (text_.samples.targets[static_cast<std::size_t>(token)] >= 0) rows.set(token, *figure++);
  }
  rows.gather();
  return summary(rows);
}

Measurement HeldOut::summary(const TokenRows& tokens) const {
  FigureSums total;
  std::vector<FigureSums> by_source(text_.sources.size());
  std::vector<std::int64_t> source_bytes(text_.sources.size());
  std::vector<double> kl;
  for (std::int64_t t = 0; t < tokens.size(); ++t) {
    const std::optional<TokenFigures> token = tokens[t];
    if (!token) continue;
    total.add(*token, tokens.has_teacher());
    if (tokens.has_teacher()) kl.push_back(token->kl);
    if (!by_source.empty())
      by_source[text_.source_of[static_cast<std::size_t>(t / text_.samples.sequence_length)]].add(*token,
                                                                                                  tokens.has_teacher());
  }
  const bool knows_bytes = !sequence_bytes_.empty();
  for (std::size_t i = 0; i < text_.source_of.size() && knows_bytes; ++i)
    source_bytes[text_.source_of[i]] += sequence_bytes_[i];
  const auto known = [&](std::int64_t bytes) { return knows_bytes ? std::optional(bytes) : std::nullopt; };

  Measurement result;
  result.held_out =
      evaluation_of(total, known(std::accumulate(sequence_bytes_.begin(), sequence_bytes_.end(), std::int64_t{0})));
  core::check(std::isfinite(result.held_out.cross_entropy),
              "the model has no finite loss on the held-out text: its weights are not usable");
  for (std::size_t s = 0; s < by_source.size(); ++s)
    if (by_source[s].tokens > 0)
      result.sets.emplace_back("held_out/" + text_.sources[s], evaluation_of(by_source[s], known(source_bytes[s])));
  set_kl_quantiles(result.held_out, std::move(kl));
  if (text_.preference_beta > 0) result.held_out.preference = preference(tokens);
  return result;
}

PreferenceResult HeldOut::preference(const TokenRows& tokens) const {
  std::array<double, kernels::num_preference_columns> sums{}, pair{};
  const std::int64_t length = text_.samples.sequence_length;
  for (std::int64_t sequence = 0; sequence < text_.samples.num_sequences; ++sequence) {
    std::array<double, 2> reward{};
    for (std::int64_t t = sequence * length; t < (sequence + 1) * length; ++t)
      if (const auto token = tokens[t])
        reward.at(static_cast<std::size_t>(text_.samples.documents[static_cast<std::size_t>(t)])) +=
            text_.preference_beta * (token->teacher_ce - token->ce);
    kernels::preference_row(reward[0], reward[1], text_.preference_beta, pair.data());
    for (std::size_t c = 0; c < sums.size(); ++c) sums[c] += pair[c];
  }
  return PreferenceResult(sums);
}

Measurement HeldOut::evaluate(const nn::Transformer& model) {
  LoadCounter load(model.config());
  Measurement result = measure(
      [&](const Part& part) {
        core::Tape off(core::Tape::Mode::Off);
        nn::Pass pass = model.pass(part.batch);
        load.watch(pass);
        return model.forward(off, pass).hidden.value;
      },
      model.head().value, model.head_bias().value, model.vocabulary_part().first);
  result.held_out.load = model_load(model.config(), load.sum_over(rank_));
  return result;
}

Evaluation HeldOut::evaluate_unigram(const std::vector<std::int64_t>& counts) {
  // A model of width 1: its hidden state is 1 and its head the logarithms of the shares.
  const double total = static_cast<double>(std::accumulate(counts.begin(), counts.end(), std::int64_t{0})) +
                       static_cast<double>(counts.size());
  const core::DType dtype = has_teacher_ && parts_.front().teachers.front().hidden.dtype() == core::DType::F64
                                ? core::DType::F64
                                : core::DType::F32;
  const nn::TensorComm& vocabulary = *rank_.comms().tensor;
  const core::Slice mine =
      core::slice_of(static_cast<std::int64_t>(counts.size()), vocabulary.rank(), vocabulary.size());
  std::vector<double> logits;
  for (std::int64_t v = mine.first; v < mine.first + mine.count; ++v)
    logits.push_back(std::log((static_cast<double>(counts[static_cast<std::size_t>(v)]) + 1) / total));
  const auto as_column = [&](const std::vector<double>& values) {
    return Tensor::from<double>(rank_.memory(), {std::ssize(values), 1}, values).to(dtype);
  };
  return measure(
             [&](const Part& part) {
               return as_column(std::vector<double>(static_cast<std::size_t>(part.batch.num_tokens()), 1.0));
             },
             as_column(logits), {}, mine.first)
      .held_out;
}

}  // namespace limbeck::launch
