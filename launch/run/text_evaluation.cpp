#include "launch/run/text_evaluation.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include "core/counted.h"
#include "core/error.h"

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

nn::Batch TextEvaluation::batch_of(const Job& job) const {
  std::vector<std::int32_t> tokens, targets, position, sequence;
  std::vector<std::int64_t> offsets = {0};
  for (std::size_t i = 0; i < job.count; ++i) {
    const Window& w = windows_[job.first + i];
    const std::vector<std::int32_t>& ids = documents_[w.document].ids;
    for (std::int64_t t = 0; t < w.count; ++t) {
      tokens.push_back(ids[w.first + t]);
      targets.push_back(is_scored(w, t) ? ids[w.first + t + 1] : -1);
      position.push_back(static_cast<std::int32_t>(t));
      sequence.push_back(static_cast<std::int32_t>(i));
    }
    offsets.push_back(static_cast<std::int64_t>(tokens.size()));
  }
  std::vector<std::int64_t> index(tokens.size());
  std::iota(index.begin(), index.end(), std::int64_t{0});
  const std::vector<std::int32_t> document(tokens.size(), 0);
  return nn::make_batch(rank_.memory(), {.tokens = tokens,
                                         .targets = targets,
                                         .position = position,
                                         .document = document,
                                         .sequence = sequence,
                                         .global_index = index,
                                         .sequence_offsets = offsets});
}

TextFigures TextEvaluation::measure(const nn::Transformer& model, const nn::Transformer* teacher) const {
  const auto hidden_of = [](const nn::Transformer& of, const nn::Batch& batch) {
    core::Tape off(core::Tape::Mode::Off);
    return of.forward(off, of.pass(batch)).hidden.value;
  };
  LossRows rows(rank_, static_cast<std::int64_t>(windows_.size()));
  const auto ranks = static_cast<std::size_t>(rank_.mesh().dp().size());
  const auto mine = static_cast<std::size_t>(rank_.mesh().dp().rank());
  for (std::size_t first = 0; first < jobs_.size(); first += ranks) {
    // A model that is cut over the ranks needs all of them, also those for which no job is left.
    const Job job = first + mine < jobs_.size() ? jobs_[first + mine] : Job{};
    const nn::Batch batch = batch_of(job);
    Predictions predictions{.hidden = hidden_of(model, batch),
                            .head = model.head().value,
                            .head_bias = model.head_bias().value,
                            .vocabulary_offset = model.vocabulary_part().first};
    if (teacher != nullptr) {
      predictions.teacher_hidden = hidden_of(*teacher, batch);
      predictions.teacher_head = teacher->head().value;
      predictions.teacher_head_bias = teacher->head_bias().value;
    }
    const std::vector<core::TokenLoss> losses = token_losses(rank_, batch.targets, predictions, valid_vocabulary_);
    auto loss = losses.begin();
    for (std::size_t w = job.first; w < job.first + job.count; ++w)
      for (std::int64_t i = num_scored(windows_[w]); i > 0; --i) rows.add(static_cast<std::int64_t>(w), *loss++);
  }
  return summary(rows.gather());
}

TextFigures TextEvaluation::summary(const std::vector<LossSums>& windows) const {
  std::vector<LossSums> sums(documents_.size());
  for (std::size_t w = 0; w < windows.size(); ++w) sums[windows_[w].document].add(windows[w]);
  TextFigures figures;
  LossSums total;
  std::optional<std::int64_t> bytes = 0;
  for (std::size_t d = 0; d < documents_.size(); ++d) {
    check(std::isfinite(sums[d].ce), "{}: the model has no finite loss on it: its weights are not usable",
          documents_[d].name);
    figures.documents.push_back(evaluation_of(sums[d], documents_[d].bytes));
    total.add(sums[d]);
    bytes = bytes && documents_[d].bytes ? std::optional(*bytes + *documents_[d].bytes) : std::nullopt;
  }
  figures.all = evaluation_of(total, bytes);
  return figures;
}

}  // namespace limbeck::launch
