#include "launch/run/tokenizer_bridge.h"

#include <algorithm>
#include <numeric>
#include <string_view>
#include <utility>

#include "core/ops/head_loss.h"
#include "core/ops/spans.h"
#include "data/tokenizers/token_borders.h"
#include "data/tokenizers/unicode.h"
#include "kernels/spans.h"
#include "optim/objectives.h"

namespace limbeck::launch {

/// Tokens of one document, one behind the other in a sequence.
struct TokenizerBridge::Part {
  std::int64_t first = 0, count = 0;               // in the samples
  const data::TokenBatch::Piece* piece = nullptr;  // where they are from, if that is known
};

/// What a batch is made of.
struct TokenizerBridge::Columns {
  std::vector<std::int32_t> tokens, targets, position, sequence;
  std::vector<std::int64_t> offsets = {0};
  std::vector<std::int64_t> spans;
};

namespace {

/// Bytes at the begin of a text that end a character which began before it.
std::int64_t end_of_character(std::string_view text) {
  const auto first =
      std::ranges::find_if(text, [](char c) { return (static_cast<unsigned char>(c) & 0xC0U) != 0x80U; });
  return first - text.begin();
}

}  // namespace

TokenizerBridge::TokenizerBridge(std::shared_ptr<const data::Tokenizer> text,
                                 std::shared_ptr<const data::Tokenizer> own, std::unique_ptr<nn::Transformer> teacher,
                                 Log log)
    : text_(std::move(text)), own_(std::move(own)), teacher_(std::move(teacher)), log_(std::move(log)) {
  if (own_->vocabulary_size() > teacher_->config().vocabulary)
    core::fail_usage("the teacher's tokenizer has {} tokens, expected at most the {} of its vocabulary",
                     own_->vocabulary_size(), teacher_->config().vocabulary);
}

void TokenizerBridge::add(const Part& part, const data::TokenBatch& samples, Columns& columns) const {
  const auto begin = samples.tokens.begin() + part.first;
  std::vector<std::int32_t> chain(begin, begin + part.count);  // and what the last one's target is
  if (const std::int32_t last = samples.targets[static_cast<std::size_t>(part.first + part.count - 1)]; last >= 0)
    chain.push_back(last);
  const bool begins = part.piece != nullptr && part.piece->position == 0;
  const bool ends = chain.back() == text_->end_of_text_id();

  const std::string whole = data::text_of_tokens(*text_, chain, begins);
  const auto borders = data::token_borders(*text_, chain, whole);
  const std::int64_t skipped = begins ? 0 : end_of_character(whole);
  std::string_view text = std::string_view(whole).substr(static_cast<std::size_t>(skipped));
  text.remove_suffix(data::unfinished_utf8(text));
  std::vector<std::int32_t> ids = own_->encode(text);
  auto theirs = data::token_borders(*own_, ids, text);
  if (!borders || !theirs) {
    if (log_ && !std::exchange(has_warned_, true))
      log_->warn(
          "{}: its text is not what the teacher's tokens of it stand for (a tokenizer may change characters, or lack "
          "some): such parts of documents have no spans",
          part.piece != nullptr ? fmt::format("document {}", part.piece->document) : "a document");
    return;
  }
  for (std::int64_t& border : *theirs) border += skipped;
  std::vector<data::CommonSpan> spans = data::common_spans(*borders, *theirs);
  if (!ends && !spans.empty()) spans.pop_back();
  if (const auto start = own_->start_of_text_id(); start && begins) {
    ids.insert(ids.begin(), *start);
    for (data::CommonSpan& span : spans) ++span.other_first;
  }
  if (ends) {
    ids.push_back(own_->end_of_text_id());
    spans.push_back({std::ssize(chain) - 1, 1, std::ssize(ids) - 1, 1, 0});
  }

  const std::int64_t most = teacher_->config().max_positions, first = std::ssize(columns.tokens);
  for (std::int64_t i = 0; i < std::ssize(ids); ++i) {
    if (i > 0 && i % most == 0) columns.offsets.push_back(first + i);
    columns.tokens.push_back(ids[static_cast<std::size_t>(i)]);
    const bool has_target = i + 1 < std::ssize(ids) && (i + 1) % most != 0;
    columns.targets.push_back(has_target ? ids[static_cast<std::size_t>(i + 1)] : -1);
    columns.position.push_back(static_cast<std::int32_t>(i % most));
    columns.sequence.push_back(static_cast<std::int32_t>(columns.offsets.size() - 1));
  }
  if (!ids.empty()) columns.offsets.push_back(std::ssize(columns.tokens));

  for (const data::CommonSpan& span : spans) {  // a token is the target of the place in front of it
    const std::int64_t at = part.first + span.first - 1, there = first + span.other_first - 1;
    const auto are_targets = [](const std::vector<std::int32_t>& targets, std::int64_t from, std::int64_t count) {
      return std::all_of(targets.begin() + from, targets.begin() + from + count,
                         [](auto target) { return target >= 0; });
    };
    if (span.first == 0 || span.other_first == 0 || !are_targets(samples.targets, at, span.count) ||
        !are_targets(columns.targets, there, span.other_count))
      continue;
    columns.spans.insert(columns.spans.end(), {at, span.count, there, span.other_count, span.bytes});
  }
}

BridgedBatch TokenizerBridge::read(const core::MemoryPtr& memory, const data::TokenBatch& samples) const {
  Columns columns;
  auto piece = samples.pieces.begin();
  const std::int64_t tokens = std::ssize(samples.tokens);
  for (std::int64_t first = 0, end = 0; first < tokens; first = end) {
    const auto document = [&](std::int64_t t) { return samples.documents[static_cast<std::size_t>(t)]; };
    for (end = first + 1; end < tokens && end % samples.sequence_length != 0 && document(end) == document(first);)
      ++end;
    while (piece != samples.pieces.end() && piece->first < first) ++piece;
    const bool is_known = piece != samples.pieces.end() && piece->first == first;
    add({.first = first, .count = end - first, .piece = is_known ? &*piece : nullptr}, samples, columns);
  }
  std::vector<std::int64_t> index(columns.tokens.size());
  std::iota(index.begin(), index.end(), std::int64_t{0});
  const std::vector<std::int32_t> document(columns.tokens.size(), 0);
  core::check_span_table(columns.spans, tokens, std::ssize(columns.tokens));
  BridgedBatch result{.batch = nn::make_batch(memory, {.tokens = columns.tokens,
                                                       .targets = columns.targets,
                                                       .position = columns.position,
                                                       .document = document,
                                                       .sequence = columns.sequence,
                                                       .global_index = index,
                                                       .sequence_offsets = columns.offsets}),
                      .host = std::move(columns.spans),
                      .spans = {}};
  result.spans = core::Tensor::from<std::int64_t>(
      memory, {std::ssize(result.host) / kernels::num_span_places, kernels::num_span_places}, result.host);
  return result;
}

core::Tensor TokenizerBridge::hidden(const nn::Batch& batch, const MappedLayers* streamed) const {
  core::Tape off(core::Tape::Mode::Off);
  nn::Pass pass = teacher_->pass(batch);
  if (streamed != nullptr) streamed->watch(pass);
  return teacher_->forward(off, pass).hidden.value;
}

core::PairedTeacher TokenizerBridge::pairs(const BridgedBatch& read, const core::Tensor& hidden, std::int64_t tokens,
                                           const core::PairedLogits::Vocabulary& student, core::Tensor totals) const {
  return {hidden,
          teacher_->head().value,
          teacher_->head_bias().value,
          read.host,
          tokens,
          {.student = student, .teacher = {teacher_->config().vocabulary, own_->vocabulary_size()}},
          std::move(totals)};
}

core::Tensor TokenizerBridge::losses(Rank& rank, const nn::Batch& batch, const core::Tensor& hidden) const {
  core::Tape off(core::Tape::Mode::Off);
  core::LossAccumulator said(rank.memory(), /*keeps_each=*/true);
  core::head_loss(off, core::constant(hidden), teacher_->head(), batch.targets, optim::LanguageModelling(), nullptr,
                  *rank.comms().tensor,
                  {.vocabulary_offset = teacher_->vocabulary_part().first, .valid_vocabulary = own_->vocabulary_size()},
                  said, teacher_->head_bias());
  return said.each();
}

}  // namespace limbeck::launch
