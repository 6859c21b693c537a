// One block of kernels/block8.h, for the kernels that go block by block.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>

#include "kernels/block8.h"

namespace limbeck::kernels {

/// The fractions of a map, and their midpoints: the code of a fraction is the number of midpoints below it. Floats with
/// the same upper 16 bits are so near each other that there is at most one midpoint between them, so the code is that
/// of the least of them, or the next one.
struct Block8Table {
  std::array<float, 256> fractions;
  std::array<float, 256> midpoints;            // the last is above everything
  std::array<std::uint8_t, 65536> least_code;  // by the upper 16 bits
};
const Block8Table& block8_table(Block8Map map);

/// count <= 256
inline void decode_block(const Block8Table& table, const std::uint8_t* codes, float scale, std::int64_t count,
                         float* x) {
  for (std::int64_t i = 0; i < count; ++i) x[i] = table.fractions[codes[i]] * scale;
}

inline void encode_block(const Block8Table& table, const float* x, std::int64_t count, std::uint8_t* codes,
                         float& scale) {
  constexpr float least = 0x1p-100F;  // products of smaller scales with small fractions would lose bits
  float greatest = 0;
  for (std::int64_t i = 0; i < count; ++i) greatest = std::max(greatest, std::abs(x[i]));
  scale = greatest > least ? greatest : 0;
  if (scale == 0) {
    std::fill_n(codes, count, std::uint8_t{0});
    return;
  }
  for (std::int64_t i = 0; i < count; ++i) {
    const float fraction = x[i] / greatest;
    const std::uint8_t code = table.least_code[std::bit_cast<std::uint32_t>(fraction) >> 16U];
    codes[i] = static_cast<std::uint8_t>(code + (table.midpoints[code] < fraction ? 1 : 0));
  }
}

}  // namespace limbeck::kernels
