#include "launch/run/evaluation.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <numbers>
#include <numeric>

#include "core/ops/reward.h"
#include "core/slice.h"
#include "kernels/distillation.h"
#include "kernels/sorted_rows.h"
#include "kernels/span_row.h"
#include "launch/console/progress.h"
#include "launch/run/batch.h"
#include "launch/run/cut_sequences.h"
#include "launch/run/stages_in_step.h"
#include "optim/sorted_distillation.h"

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

PreferenceResult preference_of(std::span<const std::array<double, 2>> rewards, double center) {
  std::array<double, kernels::num_preference_columns> sums{}, pair{};
  for (const auto& [chosen, rejected] : rewards) {
    std::array<double, 2> slopes{};
    kernels::reward_row(chosen, rejected, center, 1.0, slopes.data(), pair.data());
    for (std::size_t c = 0; c < sums.size(); ++c) sums.at(c) += pair.at(c);
  }
  return PreferenceResult(sums);
}

SpanResult::SpanResult(std::span<const double> sums, double targets)
    : spans(std::llround(sums[kernels::SpanCount])),
      kl(sums[kernels::SpanLoss] / std::max(1.0, sums[kernels::SpanCount])),
      share(sums[kernels::SpanTargets] / std::max(1.0, targets)) {
  const double bytes = std::max(1.0, sums[kernels::SpanBytes]) * std::numbers::ln2;
  bits_per_byte = sums[kernels::SpanStudentCe] / bytes;
  teacher_bits_per_byte = sums[kernels::SpanTeacherCe] / bytes;
}

SortedResult::SortedResult(std::span<const double> sums, double targets)
    : pairs(std::llround(sums[kernels::SortedPairs])),
      distance(sums[kernels::SortedDistance] / std::max(1.0, sums[kernels::SortedPairs])),
      share(sums[kernels::SortedPairs] / std::max(1.0, targets)) {}

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

std::vector<std::pair<std::string_view, double>> teacher_figures(const Evaluation& e) {
  std::vector<std::pair<std::string_view, double>> figures;
  if (!e.has_teacher()) return figures;
  const auto add = [&](const char* name, std::optional<double> value) {
    if (name != nullptr && value) figures.emplace_back(name, *value);
  };
  const TeacherFigureNames names = names_of(e.known);
  add("teacher_ce", e.teacher_cross_entropy);
  add(names.kl, e.kl);
  add(names.kl_median, e.kl_median);
  add(names.kl_p90, e.kl_p90);
  add(names.kl_p99, e.kl_p99);
  add("top1_agreement", e.agreement);
  add(names.sum_min, e.sum_min);
  add("teacher_ece", e.teacher_calibration_error);
  return figures;
}

std::string kl_text(const Evaluation& e, std::optional<double> kl) {
  return e.has_teacher() && kl ? names_of(e.known).kl_mark + fixed(*kl, 4) : "-";
}

std::string sum_min_text(const Evaluation& e) {
  const TeacherFigureNames names = names_of(e.known);
  return e.has_teacher() && names.sum_min != nullptr ? names.sum_min_mark + fixed(e.sum_min, 4) : "-";
}

void set_kl_quantiles(Evaluation& evaluation, std::vector<double> kl) {
  if (kl.empty() || names_of(evaluation.known).kl_median == nullptr) return;
  evaluation.kl_median = quantile(kl, 0.5);
  evaluation.kl_p90 = quantile(kl, 0.9);
  evaluation.kl_p99 = quantile(kl, 0.99);
}

Evaluation evaluation_of(const FigureSums& sums, std::optional<std::int64_t> bytes, std::optional<Known> teacher) {
  const double n = std::max(1.0, sums.tokens);
  return {.tokens = std::llround(sums.tokens),
          .cross_entropy = sums.ce / n,
          .teacher_cross_entropy = sums.teacher_ce / n,
          .kl = sums.kl / n,
          .agreement = sums.agreement / n,
          .sum_min = sums.sum_min / n,
          .bytes = bytes,
          .calibration_error = sums.calibration.error(),
          .teacher_calibration_error = sums.teacher_calibration.error(),
          .known = teacher.value_or(Known::Whole)};
}

HeldOut::HeldOut(Rank& rank, HeldOutText text, const nn::Transformer* teacher, std::int64_t valid_vocabulary,
                 const data::Tokenizer* tokenizer, const TokenizerBridge* bridge, const OtherTeachers* others,
                 const CachedTeacher* cached)
    : rank_(rank),
      text_(std::move(text)),
      bridge_(bridge),
      teacher_(cached != nullptr    ? std::optional(cached->known())
               : teacher != nullptr ? std::optional(Known::Whole)
                                    : std::nullopt),
      cached_(cached != nullptr ? cached->to_measure() : nullptr),
      valid_vocabulary_(valid_vocabulary) {
  const data::TokenBatch& samples = text_.samples;
  if (tokenizer != nullptr) sequence_bytes_ = bytes_by_sequence(samples, *tokenizer);
  const std::int64_t ranks = rank.mesh().dp().size();
  const core::Slice mine = core::slice_of(samples.num_sequences, rank.mesh().dp().rank(), ranks);
  const std::int64_t per_part = std::max<std::int64_t>(1, tokens_per_part / samples.sequence_length);
  const std::int64_t most = (samples.num_sequences + ranks - 1) / ranks;
  const StepText sequences = bridge != nullptr || cached_ ? StepText(samples) : StepText();
  if (bridge != nullptr) spans_.emplace();
  const data::TokenBatch cut = others != nullptr ? cut_of(samples, rank.context_place()) : data::TokenBatch();
  const auto add_part = [&](std::int64_t done) {
    const std::int64_t skipped = std::min(done, mine.count);
    const core::Slice own{mine.first + skipped, std::min(per_part, mine.count - skipped)};
    Part part{make_batch(rank.memory(), samples, own.first, own.count, 0, 0, rank.context_place()), {}};
    std::optional<TokenShares> shares;
    if (others != nullptr) shares = others->shares_of(rank.memory(), cut, own.first, own.count);
    if (teacher && teacher->has_head() && (!shares || others->runs(*shares, 0))) {
      core::Tape off(core::Tape::Mode::Off);
      Tensor hidden = teacher->forward(off, teacher->pass(part.batch)).hidden.value;
      if (!shares || shares->teaches[0])
        part.teachers.push_back({std::move(hidden), teacher->head().value, teacher->head_bias().value,
                                 shares ? shares->values[0] : Tensor()});
    }
    if (shares && rank.is_last_stage()) others->give(part.batch, *shares, part.teachers);
    if (cached_) part.text = cut_of(sequences.fetch(own.first, own.count), rank.context_place());
    if (bridge != nullptr && rank.is_last_stage()) add_spans(sequences.fetch(own.first, own.count), own.first, part);
    parts_.push_back(std::move(part));
  };
  const auto add_parts = [&] {
    for (std::int64_t done = 0; done < most; done += per_part) add_part(done);
  };
  if (rank.pipeline().size() > 1)
    while_others_hear(rank, add_parts);  // the last stage alone has a teacher
  else
    add_parts();
}

/// Of sequences from `first` on of the sample.
void HeldOut::add_spans(const data::TokenBatch& sequences, std::int64_t first, Part& part) {
  BridgedBatch read = bridge_->read(rank_.memory(), sequences);
  Tensor hidden = bridge_->hidden(read.batch);
  const std::vector<double> each = core::host_values<double>(bridge_->losses(rank_, read.batch, hidden));
  for (std::size_t i = 0; i < read.host.size(); i += kernels::num_span_places) {
    const std::span<const std::int64_t> place = std::span(read.host).subspan(i, kernels::num_span_places);
    spans_->push_back({.first = first * sequences.sequence_length + place[kernels::SpanFirst],
                       .count = place[kernels::SpanTokens],
                       .bytes = place[kernels::SpanTextBytes],
                       .teacher_ce = kernels::sum_of_losses(each.data(), place[kernels::SpanTeacherFirst],
                                                            place[kernels::SpanTeacherTokens])});
  }
  if (!text_.is_sorted) return;
  part.read = std::move(read);
  part.read_hidden = std::move(hidden);
}

void HeldOut::add_sorted(const Part& part, const Tensor& hidden, const Tensor& head, const Tensor& bias,
                         const core::VocabularyPart& vocabulary, const Tensor& totals) const {
  core::PairedTeacher teacher =
      bridge_->pairs(*part.read, part.read_hidden, hidden.shape()[0],
                     core::PairedLogits::Vocabulary::of(vocabulary.total, valid_vocabulary_), totals);
  core::Tape off(core::Tape::Mode::Off);
  core::LossAccumulator unused(rank_.memory());
  core::head_loss(off, core::constant(hidden), core::constant(head), part.batch.targets, optim::SortedDistillation(0),
                  &teacher, *rank_.comms().tensor,
                  {.vocabulary_offset = vocabulary.first, .valid_vocabulary = valid_vocabulary_}, unused,
                  core::constant(bias));
}

std::int64_t HeldOut::num_tokens() const { return text_.samples.num_targets(); }

bool HeldOut::has_source(const std::string& name) const {
  return std::any_of(text_.source_of.begin(), text_.source_of.end(),
                     [&](std::size_t source) { return text_.sources[source] == name; });
}

Measurement HeldOut::measure(const Forward& hidden_of, const Tensor& head, const Tensor& bias,
                             const core::VocabularyPart& vocabulary) {
  Tensor of_pairs = Tensor::zeros(rank_.memory(), core::DType::F64, {kernels::num_sorted_columns});
  TokenRows rows(rank_, static_cast<std::int64_t>(text_.samples.targets.size()), teacher_);
  StagesInStep stages(rank_);
  for (const Part& part : parts_) {
    stages.next();
    const Tensor hidden = hidden_of(part);
    if (!rank_.is_last_stage()) continue;
    if (part.read) add_sorted(part, hidden, head, bias, vocabulary, of_pairs);
    std::unique_ptr<core::TargetSource> cached;
    if (cached_) cached = cached_->targets(rank_.memory(), part.text, vocabulary.first, head.shape()[0]);
    const std::vector<TokenFigures> figures = token_figures(rank_, part.batch.targets,
                                                            {.hidden = hidden,
                                                             .head = head,
                                                             .head_bias = bias,
                                                             .vocabulary_offset = vocabulary.first,
                                                             .teachers = part.teachers,
                                                             .source = cached.get()},
                                                            valid_vocabulary_);
    set_rows(part, figures, rows);
  }
  rows.gather();
  Measurement result = summary(rows);
  if (text_.is_sorted) {
    rank_.mesh().dp().all_reduce(of_pairs, core::Reduce::Sum);
    rank_.pipeline().sum(of_pairs);
    result.held_out.sorted.emplace(core::host_values<double>(of_pairs), static_cast<double>(num_tokens()));
  }
  return result;
}

void HeldOut::set_rows(const Part& part, const std::vector<TokenFigures>& figures, TokenRows& rows) const {
  auto figure = figures.begin();
  for (const std::int64_t token : core::host_values<std::int64_t>(part.batch.global_index))
    if (text_.samples.targets[static_cast<std::size_t>(token)] >= 0) rows.set(token, *figure++);
}

/// By the model whose experts choose as a teacher of the one whose tokens do.
ChoiceResult HeldOut::choice_of(const nn::Transformer& model) const {
  TokenRows rows(rank_, static_cast<std::int64_t>(text_.samples.targets.size()), Known::Whole);
  const nn::WholeEnd whole = model.whole_head();
  StagesInStep stages(rank_);
  for (const Part& part : parts_) {
    const auto hidden_by = [&](const nn::RouterTraining& router) {
      stages.next();
      core::Tape off(core::Tape::Mode::Off);
      nn::Pass pass = model.pass(part.batch);
      pass.router = router;
      return model.forward(off, pass).hidden.value;
    };
    const Tensor by_experts = hidden_by(text_.router), by_tokens = hidden_by({});
    if (!rank_.is_last_stage()) continue;
    const Tensor head = model.head().value, bias = model.head_bias().value;
    set_rows(part,
             token_figures(rank_, part.batch.targets,
                           {.hidden = by_tokens,
                            .head = head,
                            .head_bias = bias,
                            .vocabulary_offset = model.vocabulary_part().first,
                            .teachers = {{by_experts, head, bias}}},
                           valid_vocabulary_),
             rows);
  }
  rows.gather();
  FigureSums sums;
  for (std::int64_t t = 0; t < rows.size(); ++t)
    if (const auto token = rows[t]) sums.add(*token);
  const Evaluation found = evaluation_of(sums, std::nullopt, Known::Whole);
  return {.kl = found.kl, .cross_entropy = found.teacher_cross_entropy};
}

Measurement HeldOut::summary(const TokenRows& tokens) const {
  FigureSums total;
  std::vector<FigureSums> by_source(text_.sources.size());
  std::vector<std::int64_t> source_bytes(text_.sources.size());
  std::vector<double> kl;
  for (std::int64_t t = 0; t < tokens.size(); ++t) {
    const std::optional<TokenFigures> token = tokens[t];
    if (!token) continue;
    total.add(*token);
    if (teacher_) kl.push_back(token->kl);
    if (!by_source.empty())
      by_source[text_.source_of[static_cast<std::size_t>(t / text_.samples.sequence_length)]].add(*token);
  }
  const bool knows_bytes = !sequence_bytes_.empty();
  for (std::size_t i = 0; i < text_.source_of.size() && knows_bytes; ++i)
    source_bytes[text_.source_of[i]] += sequence_bytes_[i];
  const auto known = [&](std::int64_t bytes) { return knows_bytes ? std::optional(bytes) : std::nullopt; };

  Measurement result;
  result.held_out = evaluation_of(
      total, known(std::accumulate(sequence_bytes_.begin(), sequence_bytes_.end(), std::int64_t{0})), teacher_);
  core::check(std::isfinite(result.held_out.cross_entropy),
              "the model has no finite loss on the held-out text: its weights are not usable");
  for (std::size_t s = 0; s < by_source.size(); ++s)
    if (by_source[s].tokens > 0)
      result.sets.emplace_back("held_out/" + text_.sources[s],
                               evaluation_of(by_source[s], known(source_bytes[s]), teacher_));
  set_kl_quantiles(result.held_out, std::move(kl));
  if (text_.preference_beta > 0) add_preferences(rewards_of(tokens), 0, result);
  if (spans_) result.held_out.spans = spans(tokens);
  return result;
}

/// Collective: each rank, of a pipeline's last stage, has the teacher's losses of its own sequences.
SpanResult HeldOut::spans(const TokenRows& tokens) const {
  std::array<double, kernels::num_span_columns> sums{};
  for (const OfSpan& span : *spans_) {
    double ce = 0, loss = 0;
    for (std::int64_t t = span.first; t < span.first + span.count; ++t) ce += tokens[t]->ce;
    kernels::span_loss(-span.teacher_ce, -ce, &loss);
    const std::array<double, kernels::num_span_columns> row = {
        1, loss, ce, span.teacher_ce, static_cast<double>(span.count), static_cast<double>(span.bytes)};
    for (std::size_t c = 0; c < sums.size(); ++c) sums[c] += row[c];
  }
  Tensor all = Tensor::from<double>(rank_.host_memory(), {kernels::num_span_columns}, sums);
  rank_.mesh().dp().all_reduce(all, core::Reduce::Sum);
  rank_.pipeline().sum(all);
  return {core::host_values<double>(all), static_cast<double>(num_tokens())};
}

Measurement HeldOut::counted() const {
  Measurement result;
  std::vector<std::int64_t> of_sources(text_.sources.size());
  for (std::size_t t = 0; t < text_.samples.targets.size(); ++t) {
    if (text_.samples.targets[t] < 0) continue;
    ++result.held_out.tokens;
    if (!of_sources.empty()) ++of_sources[text_.source_of[t / static_cast<std::size_t>(text_.samples.sequence_length)]];
  }
  for (std::size_t s = 0; s < of_sources.size(); ++s)
    if (of_sources[s] > 0)
      result.sets.emplace_back("held_out/" + text_.sources[s], Evaluation{.tokens = of_sources[s]});
  return result;
}

HeldOut::Rewards HeldOut::rewards_of(const TokenRows& tokens) const {
  const std::int64_t length = text_.samples.sequence_length;
  Rewards rewards(static_cast<std::size_t>(text_.samples.num_sequences));
  for (std::int64_t t = 0; t < tokens.size(); ++t)
    if (const auto token = tokens[t])
      rewards[static_cast<std::size_t>(t / length)].at(
          static_cast<std::size_t>(text_.samples.documents[static_cast<std::size_t>(t)])) +=
          text_.preference_beta * (token->teacher_ce - token->ce);
  return rewards;
}

HeldOut::Rewards HeldOut::rewards_of(const nn::Transformer& model, LoadCounter& load) const {
  const std::int64_t n = text_.samples.num_sequences;
  Tensor all = Tensor::zeros(rank_.host_memory(), core::DType::F64, {n, 2});
  std::int64_t sequence = core::slice_of(n, rank_.mesh().dp().rank(), rank_.mesh().dp().size()).first;
  StagesInStep stages(rank_);
  for (const Part& part : parts_) {
    stages.next();
    core::Tape off(core::Tape::Mode::Off);
    nn::Pass pass = model.pass(part.batch);
    load.watch(pass);
    const Tensor hidden = model.forward(off, pass).hidden.value;
    if (!rank_.is_last_stage()) continue;
    const Tensor mine =
        core::pair_rewards(hidden, model.reward_head().value, part.batch.document, part.batch.sequence_offsets)
            .in(rank_.host_memory());
    all.rows(sequence, mine.shape()[0]).copy_from(mine);
    sequence += mine.shape()[0];
  }
  rank_.comms().batch->sum(all);
  rank_.pipeline().sum(all);
  const std::vector<double> values = core::host_values<double>(all);
  Rewards rewards;
  for (std::size_t i = 0; i < values.size(); i += 2) rewards.push_back({values[i], values[i + 1]});
  core::check(std::ranges::all_of(values, [](double value) { return std::isfinite(value); }),
              "the model gives a pair a reward that is not finite: its weights are not usable");
  return rewards;
}

void HeldOut::add_preferences(const Rewards& rewards, double center, Measurement& result) const {
  result.held_out.preference = preference_of(rewards, center);
  std::vector<Rewards> of_sources(text_.sources.size());
  for (std::size_t i = 0; i < text_.source_of.size(); ++i) of_sources[text_.source_of[i]].push_back(rewards[i]);
  for (std::size_t s = 0; s < of_sources.size(); ++s) {
    const std::string name = "held_out/" + text_.sources[s];
    const auto set = std::ranges::find(result.sets, name, &NamedEvaluations::value_type::first);
    if (set != result.sets.end()) set->second.preference = preference_of(of_sources[s], center);
  }
}

Measurement HeldOut::evaluate(const nn::Transformer& model) {
  LoadCounter load(model.config());
  Measurement result;
  if (model.config().reward_head) {
    result = counted();
    add_preferences(rewards_of(model, load), text_.reward_center, result);
  } else {
    const auto hidden_of = [&](const Part& part) {
      core::Tape off(core::Tape::Mode::Off);
      nn::Pass pass = model.pass(part.batch);
      load.watch(pass);
      return model.forward(off, pass).hidden.value;
    };
    const nn::WholeEnd whole = model.whole_head();
    result = model.has_head() ? measure(hidden_of, model.head().value, model.head_bias().value, model.vocabulary_part())
                              : measure(hidden_of, {}, {}, {});
  }
  result.held_out.load = model_load(model.config(), load.sum_over(rank_).assignments);
  if (text_.router.expert_choice) result.held_out.choice = choice_of(model);
  return result;
}

Evaluation HeldOut::evaluate_unigram(const std::vector<std::int64_t>& counts) {
  // A model of width 1: its hidden state is 1 and its head the logarithms of the shares.
  const double total = static_cast<double>(std::accumulate(counts.begin(), counts.end(), std::int64_t{0})) +
                       static_cast<double>(counts.size());
  const auto& teachers = parts_.front().teachers;
  const core::DType dtype = cached_            ? cached_->dtype()
                            : teachers.empty() ? core::DType::F32
                                               : core::sum_dtype(teachers.front().hidden.dtype());
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
             as_column(logits), {}, {mine.first, std::ssize(counts)})
      .held_out;
}

}  // namespace limbeck::launch
