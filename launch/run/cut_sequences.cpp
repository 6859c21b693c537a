#include "launch/run/cut_sequences.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "core/error.h"

namespace limbeck::launch {

data::TokenBatch cut_of(const data::TokenBatch& samples, nn::ContextPlace place) {
  if (place.size == 1) return samples;
  const std::int64_t length = samples.sequence_length;
  const auto pieces = nn::pieces_of(length, place);
  data::TokenBatch mine;
  mine.num_sequences = samples.num_sequences;
  mine.sequence_length = pieces[0].count + pieces[1].count;
  for (const auto& [from, to] : {std::pair(&samples.tokens, &mine.tokens),
                                 {&samples.targets, &mine.targets},
                                 {&samples.positions, &mine.positions},
                                 {&samples.documents, &mine.documents}})
    for (std::int64_t n = 0; n < samples.num_sequences; ++n)
      for (const core::Slice& piece : pieces) {
        const auto begin = from->begin() + n * length + piece.first;
        to->insert(to->end(), begin, begin + piece.count);
      }
  for (const data::TokenBatch::Piece& whole : samples.pieces) {
    const std::int64_t sequence = whole.first / length, first = whole.first % length;
    std::int64_t at = sequence * mine.sequence_length;
    for (const core::Slice& piece : pieces) {
      const std::int64_t begin = std::max(first, piece.first),
                         end = std::min(first + whole.count, piece.first + piece.count);
      if (begin < end)
        mine.pieces.push_back({.source = whole.source,
                               .document = whole.document,
                               .position = whole.position + begin - first,
                               .first = at + begin - piece.first,
                               .count = end - begin});
      at += piece.count;
    }
  }
  return mine;
}

void check_cut_sequences(const RunConfig& config, const nn::ModelConfig& student, nn::ContextPlace place) {
  if (place.size == 1) return;
  const ObjectiveConfig& c = config.objective;
  for (const auto& [field, is_given] :
       {std::pair("objective.preference", c.preference.has_value()),
        {"objective.reward", c.reward.has_value()},
        {"objective.bridge", c.bridge != Bridge::None},
        {"objective.control SHUFFLED_POSITIONS", c.control == Control::ShuffledPositions},
        {"a teacher beside layers that predict further tokens", config.teacher && student.num_predict_layers > 0}})
    if (is_given)
      core::fail_usage(
          "parallel.layout is {}, which cuts sequences over {} ranks, expected no cp with {}: it looks at "
          "whole sequences",
          config.parallel.layout, place.size, field);
}

}  // namespace limbeck::launch
