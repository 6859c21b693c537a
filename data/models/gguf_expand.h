// One block of each of ggml's quantised formats as float32 values, for gguf_blocks.cpp. The arithmetic is that of
// ggml's dequantize_row_* (ggml-quants.c), product by product, so that the results are the same bits.
//
// A block of 32 has a half scale d (and a half minimum m or none) for all; one of 256 ("K") has 4 to 8 bit scales of
// groups of 16 or 32 values beside its half d (and dmin). Value i of a K block lies in half i / 128.
#pragma once

#include <array>
#include <cstdint>
#include <cstring>

#include "data/files/half.h"

namespace limbeck::data::expand {

using Byte = std::uint8_t;

inline float half_at(const Byte* at) {
  std::uint16_t bits = 0;
  std::memcpy(&bits, at, sizeof bits);  // blocks are not aligned
  return float_from_half(bits);
}

inline std::uint32_t bits_at(const Byte* at) {
  std::uint32_t bits = 0;
  std::memcpy(&bits, at, sizeof bits);
  return bits;
}

/// 16 bytes of two values each: the low nibbles are values 0 to 15.
template <class Value>
void nibbles(const Byte* pairs, float* out, Value value) {
  for (int i = 0; i < 16; ++i) {
    out[i] = value(pairs[i] & 15);
    out[i + 16] = value(pairs[i] >> 4);
  }
}

/// The same with a fifth bit a value, bit i of `high` for value i.
template <class Value>
void nibbles_and_bit(std::uint32_t high, const Byte* pairs, float* out, Value value) {
  for (int i = 0; i < 16; ++i) {
    out[i] = value((pairs[i] & 15) | static_cast<int>((high >> i & 1U) << 4U));
    out[i + 16] = value((pairs[i] >> 4) | static_cast<int>((high >> (i + 16) & 1U) << 4U));
  }
}

inline void q4_0(const Byte* b, float* out) {
  const float d = half_at(b);
  nibbles(b + 2, out, [=](int q) { return d * static_cast<float>(q - 8); });
}

inline void q4_1(const Byte* b, float* out) {
  const float d = half_at(b);
  const float m = half_at(b + 2);
  nibbles(b + 4, out, [=](int q) { return d * static_cast<float>(q) + m; });
}

inline void q5_0(const Byte* b, float* out) {
  const float d = half_at(b);
  nibbles_and_bit(bits_at(b + 2), b + 6, out, [=](int q) { return d * static_cast<float>(q - 16); });
}

inline void q5_1(const Byte* b, float* out) {
  const float d = half_at(b);
  const float m = half_at(b + 2);
  nibbles_and_bit(bits_at(b + 4), b + 8, out, [=](int q) { return d * static_cast<float>(q) + m; });
}

inline void q8_0(const Byte* b, float* out) {
  const float d = half_at(b);
  for (int i = 0; i < 32; ++i) out[i] = d * static_cast<float>(static_cast<std::int8_t>(b[2 + i]));
}

/// 16 bytes of a scale and a minimum in 4 bits each, 64 bytes of four 2-bit values, d, dmin.
inline void q2_k(const Byte* b, float* out) {
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
inline void q3_k(const Byte* b, float* out) {
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
inline ScaleAndMinimum scale_and_minimum(const Byte* packed, int group, float d, float dmin) {
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
inline void q4_k(const Byte* b, float* out) {
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
inline void q5_k(const Byte* b, float* out) {
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
inline void q6_k(const Byte* b, float* out) {
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

/// kvalues_iq4nl of ggml-common.h.
inline constexpr std::array<float, 16> iq4_values = {-127, -104, -83, -65, -49, -35, -22, -10,
                                                     1,    13,   25,  38,  53,  69,  89,  113};

inline void iq4_nl(const Byte* b, float* out) {
  const float d = half_at(b);
  nibbles(b + 2, out, [=](int q) { return d * iq4_values[q]; });
}

/// d, the upper two bits of eight 6-bit scales, their low nibbles, then eight groups as in IQ4_NL.
inline void iq4_xs(const Byte* b, float* out) {
  const float d = half_at(b);
  const int upper = b[2] | b[3] << 8;
  for (int group = 0; group < 8; ++group) {
    const int low = b[4 + group / 2] >> (group % 2 * 4) & 15;
    const float scale = d * static_cast<float>((low | (upper >> (2 * group) & 3) << 4) - 32);
    nibbles(b + 8 + group * 16, out + group * 32, [=](int q) { return scale * iq4_values[q]; });
  }
}

}  // namespace limbeck::data::expand
