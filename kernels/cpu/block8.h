// One block of kernels/block8.h, for the kernels that go block by block.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "kernels/block8.h"

namespace limbeck::kernels {

/// The fractions of a map, and their midpoints: the code of a fraction is the number of midpoints below it.
struct Block8Table {
  std::array<float, 256> fractions;
  std::array<float, 255> midpoints;
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
#pragma omp simd
  for (std::int64_t i = 0; i < count; ++i) {
    const float fraction = x[i] / greatest;
    std::int32_t code = 0;
    for (std::int32_t step = 128; step > 0; step /= 2)  // a binary search without branches
      code += table.midpoints[static_cast<std::size_t>(code + step - 1)] < fraction ? step : 0;
    codes[i] = static_cast<std::uint8_t>(code);
  }
}

}  // namespace limbeck::kernels
