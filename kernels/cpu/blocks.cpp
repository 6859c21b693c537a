// The expansion of blocks. Compiled so that a product and a sum are rounded apart, as ggml's are.
#include "kernels/blocks.h"

#include <algorithm>
#include <cstring>

#include "kernels/block_values.h"

namespace limbeck::kernels {
namespace {

using block_values::Byte;

void expand_halves(const Byte* __restrict from, std::int64_t count, float* __restrict out) {
#pragma omp simd
  for (std::int64_t i = 0; i < count; ++i) {
    std::uint16_t bits = 0;
    std::memcpy(&bits, from + 2 * i, sizeof bits);  // one load, of which vectors are made
    out[i] = float_from_half(bits);
  }
}

/// Blocks whose values stand behind their halves.
template <void (*block)(const Byte*, float*), std::int64_t bytes, std::int64_t elements>
void expand_all(const Byte* from, std::int64_t count, float* out) {
  for (std::int64_t i = 0; i < count; ++i) block(from + i * bytes, out + i * elements);
}

template <void (*block)(const Byte*, block_values::Quants&), std::int64_t bytes, bool has_minimum>
void expand_32(const Byte* from, std::int64_t count, float* __restrict out) {
  constexpr std::int64_t at_once = block_values::blocks_at_once;
  float scales[at_once], minima[at_once];
  for (std::int64_t first = 0; first < count; first += at_once, from += at_once * bytes) {
    const std::int64_t n = std::min(at_once, count - first);
    block_values::read_scales<bytes, has_minimum>(from, n, scales, minima);
    for (std::int64_t i = 0; i < n; ++i) {
      block_values::Quants q;
      block(from + i * bytes, q);
#pragma omp simd
      for (int j = 0; j < 32; ++j)
        out[j] = has_minimum ? scales[i] * static_cast<float>(q[j]) + minima[i] : scales[i] * static_cast<float>(q[j]);
      out += 32;
    }
  }
}

struct Format {
  BlockSize size;
  void (*expand)(const Byte* from, std::int64_t count, float* out);
  int halves[2];  // where its scales in half precision are; one may be there twice
};

template <void (*block)(const Byte*, block_values::Quants&), std::int64_t bytes, bool has_minimum>
constexpr Format of_32() {
  return {{bytes, 32}, expand_32<block, bytes, has_minimum>, {0, has_minimum ? 2 : 0}};
}
template <void (*block)(const Byte*, float*), std::int64_t bytes>
constexpr Format of_256(int scale, int minimum) {
  return {{bytes, 256}, expand_all<block, bytes, 256>, {scale, minimum}};
}

// In the order of BlockFormat.
constexpr Format formats[] = {
    {{2, 1}, expand_halves, {0, 0}},           of_32<block_values::q4_0, 18, false>(),
    of_32<block_values::q4_1, 20, true>(),     of_32<block_values::q5_0, 22, false>(),
    of_32<block_values::q5_1, 24, true>(),     of_32<block_values::q8_0, 34, false>(),
    of_256<block_values::q2_k, 84>(80, 82),    of_256<block_values::q3_k, 110>(108, 108),
    of_256<block_values::q4_k, 144>(0, 2),     of_256<block_values::q5_k, 176>(0, 2),
    of_256<block_values::q6_k, 210>(208, 208), of_32<block_values::iq4_nl, 18, false>(),
    of_256<block_values::iq4_xs, 136>(0, 0),
};

const Format& info(BlockFormat format) { return formats[static_cast<std::size_t>(format)]; }

}  // namespace

BlockSize size_of(BlockFormat format) { return info(format).size; }

void expand(const Blocks& blocks, std::int64_t count, float* out) {
  info(blocks.format).expand(reinterpret_cast<const Byte*>(blocks.data), count, out);
}

std::int64_t first_not_finite(const Blocks& blocks, std::int64_t count) {
  constexpr std::uint16_t exponent = 0x7c00;
  const Format& format = info(blocks.format);
  const auto is_finite = [](const std::byte* half) {
    std::uint16_t bits = 0;
    std::memcpy(&bits, half, sizeof bits);
    return (bits & exponent) != exponent;
  };
  for (std::int64_t i = 0; i < count; ++i) {
    const std::byte* block = blocks.data + i * format.size.bytes;
    if (!is_finite(block + format.halves[0]) || !is_finite(block + format.halves[1])) return i;
  }
  return count;
}

}  // namespace limbeck::kernels
