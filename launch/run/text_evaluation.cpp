#include "launch/run/text_evaluation.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <numeric>
#include <utility>

#include "core/counted.h"
#include "core/error.h"
#include "launch/run/stages_in_step.h"

namespace limbeck::launch {

using core::check;

namespace {

/// Windows are read together up to so many tokens. What is read together depends on the text alone, so that products
/// are cut alike, whatever the ranks.
constexpr std::int64_t tokens_per_job = 1024;

std::vector<std::int64_t> lengths_of(const std::vector<data::Document>& documents) {
  std::vector<std::int64_t> lengths;
  for (const data::Document& document : documents) lengths.push_back(static_cast<std::int64_t>(document.ids.size()));
  return lengths;
}

}  // namespace

std::vector<Window> windows_of(std::span<const std::int64_t> lengths, const WindowOptions& options) {
  check(options.length >= 1 && options.stride >= 1 && options.stride <= options.length,
        "windows of {} tokens with stride {}, expected a stride from 1 to the windows' length", options.length,
        options.stride);
  std::vector<Window> windows;
  for (std::size_t d = 0; d < lengths.size(); ++d) {
    const std::int64_t inputs = lengths[d] - 1;  // nothing comes after the last token
    std::int64_t scored = 0;                     // targets, of the windows before
    for (std::int64_t first = 0; scored < inputs; first += options.stride) {
      const std::int64_t end = std::min(first + options.length, inputs);
      windows.push_back({.document = d, .first = first, .count = end - first, .num_scored = end - scored});
      scored = end;
    }
  }
  return windows;
}

void say_repaired(const std::vector<data::Document>& documents, const std::string& what, const Log& log) {
  std::int64_t sequences = 0;
  for (const data::Document& document : documents) sequences += document.repaired_sequences;
  if (sequences > 0) log->warn("{}: {} became U+FFFD", what, core::counted(sequences, "ill-formed UTF-8 sequence"));
}

TextEvaluation::TextEvaluation(Rank& rank, std::vector<data::Document> documents, const WindowOptions& options,
                               std::int64_t valid_vocabulary)
    : rank_(rank),
      documents_(std::move(documents)),
      windows_(windows_of(lengths_of(documents_), options)),
      valid_vocabulary_(valid_vocabulary) {
  for (const data::Document& document : documents_)
    for (const std::int32_t id : document.ids)
      check(id >= 0 && id < valid_vocabulary, "{}: holds token {}, expected an id below {}", document.name, id,
            valid_vocabulary);
  offsets_.push_back(0);
  for (const std::int64_t length : lengths_of(documents_))
    offsets_.push_back(offsets_.back() + std::max<std::int64_t>(length - 1, 0));
  check(!windows_.empty(), "{}: has one token, which nothing precedes, expected a document of two or more",
        documents_.empty() ? "the text" : documents_.front().name);
  std::int64_t tokens = tokens_per_job;
  for (std::size_t w = 0; w < windows_.size(); ++w) {
    tokens += windows_[w].count;
    if (tokens > tokens_per_job) {
      jobs_.push_back({.first = w, .count = 0});
      tokens = windows_[w].count;
    }
    ++jobs_.back().count;
  }
}

std::int64_t TextEvaluation::num_tokens() const {
  return std::accumulate(windows_.begin(), windows_.end(), std::int64_t{0},
                         [&](std::int64_t sum, const Window& w) { return sum + num_scored(w); });
}

/// What comes after token `t` of a window counts.
bool TextEvaluation::is_scored(const Window& w, std::int64_t t) const {
  const std::vector<std::uint8_t>& is_target = documents_[w.document].is_target;
  return t >= w.count - w.num_scored && (is_target.empty() || is_target[w.first + t + 1] != 0);
}

std::int64_t TextEvaluation::num_scored(const Window& w) const {
  std::int64_t sum = 0;
  for (std::int64_t t = w.count - w.num_scored; t < w.count; ++t) sum += is_scored(w, t) ? 1 : 0;
  return sum;
}

data::TokenBatch TextEvaluation::text_of(const Job& job) const {
  data::TokenBatch text;
  for (std::size_t i = 0; i < job.count; ++i) {
    const Window& w = windows_[job.first + i];
    const std::vector<std::int32_t>& ids = documents_[w.document].ids;
    text.pieces.push_back({.document = static_cast<std::int64_t>(w.document),
                           .position = w.first,
                           .first = std::ssize(text.tokens),
                           .count = w.count});
    for (std::int64_t t = 0; t < w.count; ++t) {
      text.tokens.push_back(ids[w.first + t]);
      text.targets.push_back(is_scored(w, t) ? ids[w.first + t + 1] : -1);
      text.positions.push_back(static_cast<std::int32_t>(t));
    }
  }
  return text;
}

nn::Batch TextEvaluation::batch_of(const data::TokenBatch& text) const {
  std::vector<std::int32_t> sequence;
  std::vector<std::int64_t> offsets = {0};
  for (const data::TokenBatch::Piece& piece : text.pieces) {
    sequence.insert(sequence.end(), static_cast<std::size_t>(piece.count),
                    static_cast<std::int32_t>(offsets.size() - 1));
    offsets.push_back(std::ssize(sequence));
  }
  std::vector<std::int64_t> index(text.tokens.size());
  std::iota(index.begin(), index.end(), std::int64_t{0});
  const std::vector<std::int32_t> document(text.tokens.size(), 0);
  return nn::make_batch(rank_.memory(), {.tokens = text.tokens,
                                         .targets = text.targets,
                                         .position = text.positions,
                                         .document = document,
                                         .sequence = sequence,
                                         .global_index = index,
                                         .sequence_offsets = offsets});
}

std::vector<ExpertUse::Token> TextEvaluation::tokens_of(const Job& job) const {
  std::vector<ExpertUse::Token> tokens;
  std::int64_t row = 0;
  for (std::size_t w = job.first; w < job.first + job.count; ++w)
    for (std::int64_t t = 0; t < windows_[w].count; ++t, ++row)
      if (is_scored(windows_[w], t))
        tokens.push_back({.row = row,
                          .id = documents_[windows_[w].document].ids[windows_[w].first + t],
                          .document = static_cast<std::int64_t>(windows_[w].document)});
  return tokens;
}

TextFigures TextEvaluation::measure(const nn::Transformer& model, const nn::Transformer* teacher, bool with_experts,
                                    CachedTeacher* cached) const {
  const auto hidden_of = [](const nn::Transformer& of, const nn::Batch& batch, nn::RoutingLog* log = nullptr) {
    core::Tape off(core::Tape::Mode::Off);
    nn::Pass pass = of.pass(batch);
    pass.routing = log;
    return of.forward(off, pass).hidden.value;
  };
  TokenRows rows(rank_, offsets_.back(),
                 cached != nullptr    ? std::optional(cached->known())
                 : teacher != nullptr ? std::optional(Known::Whole)
                                      : std::nullopt);
  ExpertUse experts(model.config());
  const auto ranks = static_cast<std::size_t>(rank_.mesh().data().size());
  const auto mine = static_cast<std::size_t>(rank_.mesh().data().rank());
  const nn::WholeEnd whole = model.whole_head();
  StagesInStep stages(rank_);
  for (std::size_t first = 0; first < jobs_.size(); first += ranks) {
    stages.next();
    // A model that is cut over the ranks needs all of them, also those for which no job is left.
    const Job job = first + mine < jobs_.size() ? jobs_[first + mine] : Job{};
    const data::TokenBatch text = text_of(job);
    const nn::Batch batch = batch_of(text);
    nn::RoutingLog log;
    const core::Tensor hidden = hidden_of(model, batch, with_experts ? &log : nullptr);
    if (with_experts) experts.add(log, batch, tokens_of(job));
    if (!model.has_head()) continue;
    Predictions predictions{.hidden = hidden,
                            .head = model.head().value,
                            .head_bias = model.head_bias().value,
                            .vocabulary_offset = model.vocabulary_part().first};
    if (teacher != nullptr) {
      predictions.teachers = {{hidden_of(*teacher, batch), teacher->head().value, teacher->head_bias().value}};
    }
    std::unique_ptr<core::TargetSource> source;
    if (cached != nullptr) {
      source = cached->targets(rank_.memory(), text, predictions.vocabulary_offset, predictions.head.shape()[0]);
      predictions.source = source.get();
    }
    const std::vector<TokenFigures> figures = token_figures(rank_, batch.targets, predictions, valid_vocabulary_);
    auto figure = figures.begin();
    for (std::size_t w = job.first; w < job.first + job.count; ++w)
      for (std::int64_t t = 0; t < windows_[w].count; ++t)
        if (is_scored(windows_[w], t)) rows.set(offsets_[windows_[w].document] + windows_[w].first + t, *figure++);
  }
  rows.gather();
  TextFigures figures = summary(rows);
  if (!with_experts) return figures;
  figures.experts = experts.sum_over(rank_, std::ssize(documents_));
  std::vector<std::vector<double>> assignments;
  for (const LayerUse& layer : figures.experts) assignments.push_back(layer.assignments);
  figures.load = model_load(model.config(), assignments);
  return figures;
}

TextFigures TextEvaluation::summary(const TokenRows& tokens) const {
  TextFigures figures;
  FigureSums total;
  std::vector<double> kl;  // of all tokens
  double documents = 0, document_ce = 0;
  std::optional<std::int64_t> bytes = 0;
  for (std::size_t d = 0; d < documents_.size(); ++d) {
    FigureSums sums;
    std::vector<double> own_kl;
    for (std::int64_t t = offsets_[d]; t < offsets_[d + 1]; ++t) {
      const std::optional<TokenFigures> token = tokens[t];
      if (!token) continue;
      sums.add(*token);
      if (tokens.teacher()) own_kl.push_back(token->kl);
    }
    check(std::isfinite(sums.ce), "{}: the model has no finite loss on it: its weights are not usable",
          documents_[d].name);
    figures.documents.push_back(evaluation_of(sums, documents_[d].bytes, tokens.teacher()));
    kl.insert(kl.end(), own_kl.begin(), own_kl.end());
    set_kl_quantiles(figures.documents.back(), std::move(own_kl));
    total.add(sums);
    figures.sums.push_back(sums);
    if (sums.tokens > 0) {
      documents += 1;
      document_ce += figures.documents.back().cross_entropy;
    }
    bytes = bytes && documents_[d].bytes ? std::optional(*bytes + *documents_[d].bytes) : std::nullopt;
  }
  figures.all = evaluation_of(total, bytes, tokens.teacher());
  set_kl_quantiles(figures.all, std::move(kl));
  if (documents > 0) figures.all.document_cross_entropy = document_ce / documents;
  return figures;
}

}  // namespace limbeck::launch
