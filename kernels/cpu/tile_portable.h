// The tile product for processors without bfloat16 arithmetic: both factors are widened to float32 in registers.
#pragma once

#include <algorithm>

#include "kernels/cpu/tile_products.h"

namespace limbeck::kernels {

/// TileProduct::run. `Rows` rows of 16 sums stay in registers.
template <int Rows>
void run_portable_tile(const bf16* a, std::int64_t step, std::int64_t rows, const bf16* panel, std::int64_t blocks,
                       bool add, float* tile) {
  using Floats = float __attribute__((vector_size(64), may_alias));
  using Pairs = std::uint32_t
      __attribute__((vector_size(64), may_alias));  // two neighbours of a column, the first in the low half
  constexpr std::int64_t half = tile_columns / 2, depth = block_depth / 2;
  for (std::int64_t column = 0; column < tile_columns; column += half)
    for (std::int64_t first = 0; first < rows; first += Rows) {
      const bf16* row[Rows];  // rows beyond the last repeat it and are not stored
      for (int i = 0; i < Rows; ++i) row[i] = a + std::min(first + i, rows - 1) * step;
      Floats sum[Rows] = {};
      for (std::int64_t block = 0; block < blocks; ++block) {
        const bf16* pairs = panel + (block * tile_columns + column) * block_depth;
        for (std::int64_t d = 0; d < depth; ++d) {
          const Pairs both = *reinterpret_cast<const Pairs*>(pairs + 2 * d * half);
          const Floats low = reinterpret_cast<Floats>(both << 16U), high = reinterpret_cast<Floats>(both & 0xffff0000U);
          for (int i = 0; i < Rows; ++i) {
            const bf16* x = row[i] + block * block_depth + 2 * d;
            sum[i] += static_cast<float>(x[0]) * low;
            sum[i] += static_cast<float>(x[1]) * high;
          }
        }
      }
      for (std::int64_t i = first; i < std::min(first + Rows, rows); ++i) {
        auto& to = *reinterpret_cast<Floats*>(tile + i * tile_columns + column);
        to = add ? to + sum[i - first] : sum[i - first];
      }
    }
}

}  // namespace limbeck::kernels
