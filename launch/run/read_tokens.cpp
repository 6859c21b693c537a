#include "launch/run/read_tokens.h"

#include <algorithm>

namespace limbeck::launch {
namespace {

std::int64_t end_of(const core::Slice& slice) { return slice.first + slice.count; }

void append(std::vector<CommonRows>& runs, const CommonRows& next) {
  if (!runs.empty()) {
    CommonRows& last = runs.back();
    if (last.in_first + last.count == next.in_first && last.in_second + last.count == next.in_second) {
      last.count += next.count;
      return;
    }
  }
  runs.push_back(next);
}

}  // namespace

ReaderPlace place_of_reader(const parallel::Layout& layout, int num_ranks, int rank) {
  const int tp = std::max(layout.tp, 1), cp = std::max(layout.cp, 1);
  const int of_stage = num_ranks / std::max(layout.pp, 1), in_stage = rank % of_stage;
  return {.stage = rank / of_stage,
          .data = in_stage / (tp * cp),
          .num_data = of_stage / (tp * cp),
          .context = {.rank = in_stage / tp % cp, .size = cp},
          .tensor = in_stage % tp};
}

std::int64_t ReadTokens::num_rows(std::int64_t sequence_length) const {
  const auto pieces = nn::pieces_of(sequence_length, context);
  return sequences.count * (pieces[0].count + pieces[1].count);
}

ReadTokens read_by(const ReaderPlace& place, std::int64_t num_sequences, std::int64_t pass, std::int64_t num_passes) {
  return {sequences_of_pass(num_sequences, place.data, place.num_data, pass, num_passes), place.context};
}

std::vector<CommonRows> common_rows(const ReadTokens& first, const ReadTokens& second, std::int64_t sequence_length) {
  std::vector<CommonRows> runs;
  const auto of_first = nn::pieces_of(sequence_length, first.context),
             of_second = nn::pieces_of(sequence_length, second.context);
  const std::int64_t begin = std::max(first.sequences.first, second.sequences.first),
                     end = std::min(end_of(first.sequences), end_of(second.sequences));
  const std::int64_t rows_of_first = of_first[0].count + of_first[1].count,
                     rows_of_second = of_second[0].count + of_second[1].count;
  for (std::int64_t n = begin; n < end; ++n) {
    std::int64_t at_first = (n - first.sequences.first) * rows_of_first;
    for (const core::Slice& mine : of_first) {
      std::int64_t at_second = (n - second.sequences.first) * rows_of_second;
      for (const core::Slice& theirs : of_second) {
        const std::int64_t from = std::max(mine.first, theirs.first), to = std::min(end_of(mine), end_of(theirs));
        if (from < to) append(runs, {at_first + from - mine.first, at_second + from - theirs.first, to - from});
        at_second += theirs.count;
      }
      at_first += mine.count;
    }
  }
  return runs;
}

}  // namespace limbeck::launch
