// Dot products of rows of floats with a row in blocks of 32 values, whose integers are multiplied before their scale:
// what few rows of activations are multiplied with. Where there is none, rows are expanded first.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>

#include "kernels/blocks.h"

namespace limbeck::kernels {

inline constexpr std::int64_t rows_of_dots = 4;

struct BlockDots {
  /// results[i] = the sum of a[i * step + j] * (value j of the `blocks` blocks at b), for one row i, or for
  /// rows_of_dots. sums [rows,blocks]: those of each 32 values of a.
  using Run = void (*)(const std::byte* b, std::int64_t blocks, const float* a, std::int64_t step, const float* sums,
                       float* results);
  Run one;
  Run rows;
};

/// Those of this build, for a format.
std::optional<BlockDots> block_dots(BlockFormat format);

}  // namespace limbeck::kernels
