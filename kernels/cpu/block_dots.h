// Dot products of rows of floats with a row in blocks, whose values are made in registers and multiplied there: what
// few rows of activations are multiplied with. Where there is none, rows are expanded first.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "kernels/blocks.h"

namespace limbeck::kernels {

/// results[i] = the sum of a[i * step + j] * (value j of the `blocks` blocks at b), for each row i of some. The bits of
/// a result do not depend on how many those are.
using BlockDots = void (*)(const std::byte* b, std::int64_t blocks, const float* a, std::int64_t step, float* results);

/// Those of this build for a format: of one row, of two and so on. Empty where there is none.
std::span<const BlockDots> block_dots(BlockFormat format);

}  // namespace limbeck::kernels
