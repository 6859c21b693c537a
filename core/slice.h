// How n things are dealt among parts, in order: sequences and tokens to ranks, rows of a parameter, pieces of a sum.
//
//     const Slice mine = slice_of(num_sequences, rank, num_ranks);     // [mine.first, mine.first + mine.count)
#pragma once

#include <cstdint>

namespace limbeck::core {

struct Slice {
  std::int64_t first = 0;
  std::int64_t count = 0;
};

/// What part `index` of `parts` takes of `count`: equal but for one, in order; some may be empty.
inline Slice slice_of(std::int64_t count, std::int64_t index, std::int64_t parts) {
  const std::int64_t first = count * index / parts;
  return {first, count * (index + 1) / parts - first};
}

}  // namespace limbeck::core
