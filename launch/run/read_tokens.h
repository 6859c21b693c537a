// Which tokens of a step's text a rank reads by the layout of its mesh, and which of them two ranks both read, each under
// a layout of its own.
//
//     const ReadTokens mine = read_by(place_of_reader(layout, num_ranks, rank), num_sequences, micro, micro_batches);
//     for (const CommonRows& run : common_rows(mine, theirs, sequence_length)) ...
#pragma once

#include <cstdint>
#include <vector>

#include "core/nn/cut_batch.h"
#include "core/slice.h"
#include "parallel/axes/mesh.h"

namespace limbeck::launch {

/// Where a rank is along the axes that say what it reads (parallel::Mesh).
struct ReaderPlace {
  int stage = 0;
  int data = 0;  // of num_data with different sequences
  int num_data = 1;
  nn::ContextPlace context = {};
  int tensor = 0;
};

/// Rank `rank` of a world of `num_ranks` that has such a layout.
ReaderPlace place_of_reader(const parallel::Layout& layout, int num_ranks, int rank);

/// The sequences of a step that data-parallel rank `data` of so many reads in one of its passes.
inline core::Slice sequences_of_pass(std::int64_t num_sequences, std::int64_t data, std::int64_t num_data,
                                     std::int64_t pass, std::int64_t num_passes) {
  return core::slice_of(num_sequences, pass * num_data + data, num_data * num_passes);
}

/// Of each of some sequences of the step its pieces, one behind the other: a row a token.
struct ReadTokens {
  core::Slice sequences;
  nn::ContextPlace context;

  std::int64_t num_rows(std::int64_t sequence_length) const;
};
ReadTokens read_by(const ReaderPlace& place, std::int64_t num_sequences, std::int64_t pass, std::int64_t num_passes);

/// The same tokens in the rows of two that read them.
struct CommonRows {
  std::int64_t in_first = 0;   // the first of them
  std::int64_t in_second = 0;  // likewise
  std::int64_t count = 0;
  friend bool operator==(const CommonRows&, const CommonRows&) = default;
};
/// In the order of the text, as few as there can be.
std::vector<CommonRows> common_rows(const ReadTokens& first, const ReadTokens& second, std::int64_t sequence_length);

}  // namespace limbeck::launch
