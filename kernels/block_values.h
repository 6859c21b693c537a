// One block of each of ggml's quantised formats as float32 values, for every device's expansion. The arithmetic is that
// of ggml's dequantize_row_* (ggml-quants.c), product by product, so that the results are the same bits.
//
// A block of 32 has a half scale d (and a half minimum m or none) for all, MXFP4 a power of two; one of 256 ("K") has 4
// to 8 bit scales of groups of 16 or 32 values beside its half d (and dmin). Value i of a K block lies in half i / 128.
#pragma once

#include <bit>
#include <cstdint>

#include "kernels/half.h"

namespace limbeck::kernels::block_values {

using Byte = std::uint8_t;

/// Blocks are not aligned.
constexpr std::uint16_t half_bits_at(const Byte* at) { return static_cast<std::uint16_t>(at[0] | at[1] << 8); }
constexpr float half_at(const Byte* at) { return float_from_half(half_bits_at(at)); }

constexpr std::uint32_t bits_at(const Byte* at) {
  return half_bits_at(at) | static_cast<std::uint32_t>(half_bits_at(at + 2)) << 16U;
}

/// The integers q of a block of 32 values d * q or d * q + m, of which d (and m) are the first halves of the block.
using Quants = std::int8_t[32];

/// 16 bytes of two values each: the low nibbles are values 0 to 15; `offset` is taken off.
constexpr void nibbles(const Byte* __restrict pairs, int offset, Quants& __restrict q) {
  for (int i = 0; i < 16; ++i) q[i] = static_cast<std::int8_t>((pairs[i] & 15) - offset);
  for (int i = 0; i < 16; ++i) q[16 + i] = static_cast<std::int8_t>((pairs[i] >> 4) - offset);
}

/// The same with a fifth bit a value, bit i of `high` for value i.
constexpr void nibbles_and_bit(std::uint32_t high, const Byte* pairs, int offset, Quants& q) {
  nibbles(pairs, offset, q);
  for (int i = 0; i < 32; ++i) q[i] = static_cast<std::int8_t>(q[i] + static_cast<int>((high >> i & 1U) << 4U));
}

constexpr void q4_0(const Byte* b, Quants& q) { nibbles(b + 2, 8, q); }
constexpr void q4_1(const Byte* b, Quants& q) { nibbles(b + 4, 0, q); }
constexpr void q5_0(const Byte* b, Quants& q) { nibbles_and_bit(bits_at(b + 2), b + 6, 16, q); }
constexpr void q5_1(const Byte* b, Quants& q) { nibbles_and_bit(bits_at(b + 4), b + 8, 0, q); }
constexpr void q8_0(const Byte* b, Quants& q) {
  for (int i = 0; i < 32; ++i) q[i] = static_cast<std::int8_t>(b[2 + i]);
}

constexpr void table_nibbles(const Byte* pairs, const std::int8_t (&table)[16], Quants& q) {
  for (int i = 0; i < 16; ++i) {
    q[i] = table[pairs[i] & 15];
    q[16 + i] = table[pairs[i] >> 4];
  }
}

/// kvalues_iq4nl of ggml-common.h.
constexpr void iq4_nibbles(const Byte* pairs, Quants& q) {
  constexpr std::int8_t values[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
  table_nibbles(pairs, values, q);
}
constexpr void iq4_nl(const Byte* b, Quants& q) { iq4_nibbles(b + 2, q); }

/// Twice the values of E2M1 (OCP Microscaling Formats 1.0, 5.3.3), of which the scale is half of E8M0's.
constexpr void mxfp4(const Byte* b, Quants& q) {
  constexpr std::int8_t values[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};
  table_nibbles(b + 1, values, q);
}
/// 2^(e - 128) of the byte e; ggml_e8m0_to_fp32_half.
constexpr float e8m0_half_at(const Byte* at) {
  const std::uint32_t e = at[0];
  return std::bit_cast<float>(e < 2 ? 0x00200000U << e : (e - 1) << 23U);
}
/// 255 is NaN; with 253 and 254 the values 4 and 6 are infinite.
inline constexpr Byte mxfp4_greatest_scale = 252;

constexpr std::int64_t blocks_at_once = 16;

/// The scales and minima (0 where they have none) of up to 16 blocks of 32 values.
template <std::int64_t bytes, bool has_minimum>
void read_scales(const Byte* blocks, std::int64_t count, float (&scales)[blocks_at_once],
                 float (&minima)[blocks_at_once]) {
  std::uint16_t stored[2][blocks_at_once] = {};
  for (std::int64_t i = 0; i < count; ++i) {
    stored[0][i] = half_bits_at(blocks + i * bytes);
    if (has_minimum) stored[1][i] = half_bits_at(blocks + i * bytes + 2);
  }
  for (std::int64_t i = 0; i < blocks_at_once; ++i) scales[i] = float_from_half(stored[0][i]);
  if (!has_minimum) return;
  for (std::int64_t i = 0; i < blocks_at_once; ++i) minima[i] = float_from_half(stored[1][i]);
}

/// 16 bytes of a scale and a minimum in 4 bits each, 64 bytes of four 2-bit values, d, dmin.
constexpr void q2_k(const Byte* __restrict b, float* __restrict out) {
  const Byte* scales = b;
  const Byte* values = b + 16;
  const float d = half_at(b + 80);
  const float dmin = half_at(b + 82);
  for (int group = 0; group < 16; ++group) {
    const float scale = d * static_cast<float>(scales[group] & 15);
    const float minimum = dmin * static_cast<float>(scales[group] >> 4);
    const Byte* quads = values + group / 8 * 32 + group % 2 * 16;
    const int shift = group % 8 / 2 * 2;
    for (int i = 0; i < 16; ++i) out[group * 16 + i] = scale * static_cast<float>(quads[i] >> shift & 3) - minimum;
  }
}

/// 32 bytes of third bits (set: nothing is taken off), 64 bytes of four 2-bit values, 16 scales of 6 bits in 12 bytes
/// (8 of two low nibbles, 4 of four high pairs), d.
constexpr void q3_k(const Byte* __restrict b, float* __restrict out) {
  const Byte* thirds = b;
  const Byte* values = b + 32;
  const Byte* scales = b + 96;
  const float d = half_at(b + 108);
  for (int group = 0; group < 16; ++group) {
    const int low = scales[group % 8] >> (group / 8 * 4) & 15;
    const int high = scales[8 + group % 4] >> (group / 4 * 2) & 3;
    const float scale = d * static_cast<float>((low | high << 4) - 32);
    const Byte* quads = values + group / 8 * 32 + group % 2 * 16;
    const Byte* third = thirds + group % 2 * 16;
    const int shift = group % 8 / 2 * 2;
    const int bit = group / 2;
    for (int i = 0; i < 16; ++i) {
      const int q = (quads[i] >> shift & 3) + (third[i] >> bit & 1) * 4 - 4;
      out[group * 16 + i] = scale * static_cast<float>(q);
    }
  }
}

/// Scale and minimum of group 0 to 7 from the 12 bytes of Q4_K and Q5_K: 6 bits each; those of groups 4 to 7 have their
/// upper two bits above groups 0 to 3.
struct ScaleAndMinimum {
  float scale;
  float minimum;
};
constexpr ScaleAndMinimum scale_and_minimum(const Byte* packed, int group, float d, float dmin) {
  int scale = packed[group % 4];
  int minimum = packed[group % 4 + 4];
  if (group < 4) {
    scale &= 63;
    minimum &= 63;
  } else {
    scale = (packed[group + 4] & 15) | scale >> 6 << 4;
    minimum = packed[group + 4] >> 4 | minimum >> 6 << 4;
  }
  return {d * static_cast<float>(scale), dmin * static_cast<float>(minimum)};
}

/// d, dmin, 12 bytes of scales and minima, 128 bytes of two values: the low nibbles are a group of 32, the high the
/// next.
constexpr void q4_k(const Byte* __restrict b, float* __restrict out) {
  const float d = half_at(b);
  const float dmin = half_at(b + 2);
  for (int group = 0; group < 8; ++group) {
    const auto [scale, minimum] = scale_and_minimum(b + 4, group, d, dmin);
    const Byte* pairs = b + 16 + group / 2 * 32;
    const int shift = group % 2 * 4;
    for (int i = 0; i < 32; ++i) out[group * 32 + i] = scale * static_cast<float>(pairs[i] >> shift & 15) - minimum;
  }
}

/// As Q4_K, with 32 bytes of fifth bits before the pairs: bit g of byte i is of value i of group g.
constexpr void q5_k(const Byte* __restrict b, float* __restrict out) {
  const float d = half_at(b);
  const float dmin = half_at(b + 2);
  const Byte* fifths = b + 16;
  for (int group = 0; group < 8; ++group) {
    const auto [scale, minimum] = scale_and_minimum(b + 4, group, d, dmin);
    const Byte* pairs = b + 48 + group / 2 * 32;
    const int shift = group % 2 * 4;
    for (int i = 0; i < 32; ++i) {
      const int q = (pairs[i] >> shift & 15) | (fifths[i] >> group & 1) << 4;
      out[group * 32 + i] = scale * static_cast<float>(q) - minimum;
    }
  }
}

/// 128 bytes of two low nibbles, 64 bytes of four upper pairs of bits, 16 int8 scales, d.
constexpr void q6_k(const Byte* __restrict b, float* __restrict out) {
  const auto* scales = b + 192;
  const float d = half_at(b + 208);
  for (int group = 0; group < 16; ++group) {
    const int half = group / 8;
    const int quarter = group % 8 / 2;
    const float scale = d * static_cast<float>(static_cast<std::int8_t>(scales[group]));
    const Byte* pairs = b + half * 64 + quarter % 2 * 32 + group % 2 * 16;
    const Byte* upper = b + 128 + half * 32 + group % 2 * 16;
    const int pair_shift = quarter / 2 * 4;
    const int upper_shift = quarter * 2;
    for (int i = 0; i < 16; ++i) {
      const int q = (pairs[i] >> pair_shift & 15) | (upper[i] >> upper_shift & 3) << 4;
      out[group * 16 + i] = scale * static_cast<float>(q - 32);
    }
  }
}

/// d, the upper two bits of eight 6-bit scales, their low nibbles, then eight groups as in IQ4_NL.
constexpr void iq4_xs(const Byte* __restrict b, float* __restrict out) {
  const float d = half_at(b);
  const int upper = b[2] | b[3] << 8;
  for (int group = 0; group < 8; ++group) {
    const int low = b[4 + group / 2] >> (group % 2 * 4) & 15;
    const float scale = d * static_cast<float>((low | (upper >> (2 * group) & 3) << 4) - 32);
    Quants q;
    iq4_nibbles(b + 8 + group * 16, q);
    for (int i = 0; i < 32; ++i) out[group * 32 + i] = scale * static_cast<float>(q[i]);
  }
}

}  // namespace limbeck::kernels::block_values
