// How blocks share the tiles of grouped products: tiles are numbered by group, then by row, then by column, and a block
// takes every gridDim.x-th.
//
//     TileTurns turns(problem, dynamic_shared<std::int64_t>());
//     for (Tile t; turns.next(t);) { ... }
#pragma once

#include <cstdint>

#include "gpu.h"
#include "kernels/cuda/grid.h"
#include "kernels/cuda/grouped_problem.h"

namespace limbeck::kernels {

struct Tile {
  std::int64_t group = 0;
  std::int64_t first_row = 0;         // of the group
  std::int64_t first = 0, count = 0;  // the group: rows [first, first + count)
  std::int64_t row = 0, column = 0;   // of the result's first element in the tile
};

class TileTurns {
 public:
  /// `ends` [groups]: shared memory for the number of the tile behind each group's last. The whole block calls this.
  __device__ TileTurns(const GroupedProblem& p, std::int64_t* ends, int rows, int columns)
      : problem_(p), ends_(ends), rows_(rows), columns_((p.n + columns - 1) / columns), width_(columns) {
    for (std::int64_t e = threadIdx.x; e < p.groups; e += blockDim.x) {
      const std::int64_t height = p.groups_are_terms ? p.m : p.offsets[e + 1] - p.offsets[e];
      ends[e] = (height + rows - 1) / rows * columns_;
    }
    __syncthreads();
    if (threadIdx.x == 0)
      for (std::int64_t e = 1; e < p.groups; ++e) ends[e] += ends[e - 1];
    __syncthreads();
    number_ = blockIdx.x;
  }

  /// The block's next tile; false where it has had all. Alike for all threads.
  __device__ bool next(Tile& tile) {
    const std::int64_t total = problem_.groups > 0 ? ends_[problem_.groups - 1] : 0;
    if (number_ >= total) return false;
    std::int64_t low = 0, high = problem_.groups - 1;  // the first group whose end is behind the number
    while (low < high) {
      const std::int64_t middle = (low + high) / 2;
      if (ends_[middle] > number_)
        high = middle;
      else
        low = middle + 1;
    }
    const std::int64_t within = number_ - (low > 0 ? ends_[low - 1] : 0);
    tile.group = low;
    tile.first = problem_.offsets[low];
    tile.count = problem_.offsets[low + 1] - tile.first;
    tile.row = within / columns_ * rows_;
    tile.column = within % columns_ * width_;
    number_ += gridDim.x;
    return true;
  }

 private:
  const GroupedProblem& problem_;
  std::int64_t* ends_;
  std::int64_t rows_, columns_, width_;
  std::int64_t number_ = 0;
};

}  // namespace limbeck::kernels
