#include "launch/run/batch.h"

#include <algorithm>
#include <span>
#include <utility>

namespace limbeck::launch {

nn::Batch make_batch(const core::MemoryPtr& memory, const data::TokenBatch& samples, std::int64_t first,
                     std::int64_t count, std::int64_t before, std::int64_t num_ahead, nn::ContextPlace place,
                     bool with_runs) {
  const std::int64_t s = samples.sequence_length;
  const auto n = static_cast<std::size_t>(count * s);
  const auto column = [&](const std::vector<std::int32_t>& all) {
    return std::span(all).subspan(static_cast<std::size_t>(first * s), n);
  };
  std::vector<std::int32_t> sequence(n);
  std::vector<std::int64_t> index(n);
  for (std::size_t i = 0; i < n; ++i) {
    sequence[i] = static_cast<std::int32_t>(static_cast<std::int64_t>(i) / s);
    index[i] = (before + first) * s + static_cast<std::int64_t>(i);
  }
  std::vector<std::int64_t> offsets;
  for (std::int64_t i = 0; i <= count; ++i) offsets.push_back(i * s);
  const nn::BatchColumns columns{.tokens = column(samples.tokens),
                                 .targets = column(samples.targets),
                                 .position = column(samples.positions),
                                 .document = column(samples.documents),
                                 .sequence = sequence,
                                 .global_index = index,
                                 .sequence_offsets = offsets,
                                 .num_ahead = num_ahead};
  return place.size == 1 ? nn::make_batch(memory, columns) : nn::make_cut_batch(memory, columns, place, with_runs);
}

namespace {

data::TokenBatch part_of(const data::TokenBatch& samples, std::int64_t first, std::int64_t count) {
  const auto part = [&](const std::vector<std::int32_t>& column) {
    const auto begin = column.begin() + first * samples.sequence_length;
    return std::vector<std::int32_t>(begin, begin + count * samples.sequence_length);
  };
  std::vector<data::TokenBatch::Piece> pieces;
  for (data::TokenBatch::Piece piece : samples.pieces) {
    piece.first -= first * samples.sequence_length;
    if (piece.first >= 0 && piece.first < count * samples.sequence_length) pieces.push_back(piece);
  }
  return {count,
          samples.sequence_length,
          part(samples.tokens),
          part(samples.targets),
          part(samples.positions),
          part(samples.documents),
          std::move(pieces)};
}

}  // namespace

StepText::StepText(const data::TokenBatch& samples)
    : num_sequences(samples.num_sequences),
      num_tokens(static_cast<std::int64_t>(samples.tokens.size())),
      num_targets(samples.num_targets()),
      fetch([samples](std::int64_t first, std::int64_t count) { return part_of(samples, first, count); }) {}

data::TokenBatch begins_of(const data::TokenBatch& samples, std::int64_t length) {
  data::TokenBatch batch;
  batch.num_sequences = samples.num_sequences;
  batch.sequence_length = length;
  const auto append = [&](const std::vector<std::int32_t>& from, std::vector<std::int32_t>& to) {
    for (std::int64_t i = 0; i < samples.num_sequences; ++i) {
      const auto begin = from.begin() + i * samples.sequence_length;
      to.insert(to.end(), begin, begin + length);
    }
  };
  append(samples.tokens, batch.tokens);
  append(samples.targets, batch.targets);
  append(samples.positions, batch.positions);
  append(samples.documents, batch.documents);
  for (data::TokenBatch::Piece piece : samples.pieces) {
    piece.first -= piece.first / samples.sequence_length * (samples.sequence_length - length);
    batch.pieces.push_back(piece);
  }
  return batch;
}

namespace {

/// Of sequences of `most` tokens, where the longest pair has `longest`.
std::int64_t length_with_filling(std::int64_t longest, std::int64_t most) {
  constexpr std::int64_t whole = 16;
  return std::min((longest + whole - 1) / whole * whole, most);
}

}  // namespace

data::TokenBatch without_filling(const data::TokenBatch& pairs) {
  constexpr std::int32_t filling = 2;
  std::int64_t longest = 1;
  for (std::size_t t = 0; t < pairs.documents.size(); ++t)
    if (pairs.documents[t] < filling)
      longest = std::max(longest, static_cast<std::int64_t>(t) % pairs.sequence_length + 1);
  return begins_of(pairs, length_with_filling(longest, pairs.sequence_length));
}

StepText text_of_step(data::Mixture& text, std::int64_t first_sample, std::int64_t count) {
  StepText step;
  step.num_sequences = count;
  step.num_tokens = count * text.sequence_length();
  step.num_targets = text.num_targets(first_sample, count);
  step.fetch = [&text, first_sample](std::int64_t first, std::int64_t n) {
    return text.fetch(first_sample + first, n);
  };
  if (!text.has_pairs()) return step;
  const std::int64_t length = length_with_filling(text.longest_pair(first_sample, count), text.sequence_length());
  step.num_pairs = count;
  step.num_tokens = count * length;
  step.fetch = [fetch = std::move(step.fetch), length](std::int64_t first, std::int64_t n) {
    return begins_of(fetch(first, n), length);
  };
  return step;
}

}  // namespace limbeck::launch
