// Dot products of every format (kernels/cpu/block_dots.h), written in what the registers of a level can do, V: a struct
// of static functions on sixteen floats at once. A value is that of ggml bit by bit, for an integer times a scale is
// exact, and a minimum is added with one rounding.
//
//     V::Floats, load, store, all (of one float), times, multiply_add (a b + c), sum (of all of two)
//     V::half(at), halves(at)         a half in all sixteen; two that follow each other, as {first, second}
//     V::floats(bytes)                16 signed bytes
//     V::Nibbles, nibbles(at)         16 bytes, of each of which the lowest four bits choose a value
//     V::shifted<n>(nibbles)          the four bits from bit n on; what would lie behind the byte's last is anything
//     V::Codes, codes(Nibble16, scale [, minimum])   what nibbles stand for; values(nibbles, codes)
//     V::Mask, mask_of_bits(at)       of sixteen bits; mask_of_bit(at, n): bit n of each of 16 bytes
//     V::values(nibbles, mask, codes, others)        by others, of the same scale and minimum, where the mask says so
//     V::sum_of_values(nibbles, Nibble16, nibbles, Nibble16)   before their scale
//     V::most_rows                    of activations that are multiplied at once
#pragma once

#include <immintrin.h>

#include <array>
#include <cstring>
#include <utility>

#include "kernels/block_values.h"
#include "kernels/cpu/block_dots.h"

namespace limbeck::kernels::block_dots_of {

using block_values::Byte;

/// What the nibbles 0 to 15 stand for before their scale.
struct Nibble16 {
  alignas(64) float floats[16];
  alignas(16) std::int8_t bytes[16];
};

/// As a function of block_values.h has it, of a block with its nibbles from byte `pairs` on.
template <void (*block)(const Byte*, block_values::Quants&)>
constexpr Nibble16 nibbles_of(int pairs, Byte other_bytes = 0) {
  Byte b[24] = {};
  for (Byte& byte : b) byte = other_bytes;
  for (int i = 0; i < 16; ++i) b[pairs + i] = static_cast<Byte>(i);
  block_values::Quants q = {};
  block(b, q);
  Nibble16 nibbles = {};
  for (int i = 0; i < 16; ++i) {
    nibbles.floats[i] = static_cast<float>(q[i]);
    nibbles.bytes[i] = q[i];
  }
  return nibbles;
}

inline constexpr Nibble16 of_q4_0 = nibbles_of<block_values::q4_0>(2), of_q4_1 = nibbles_of<block_values::q4_1>(4),
                          of_iq4_nl = nibbles_of<block_values::iq4_nl>(2),
                          of_mxfp4 = nibbles_of<block_values::mxfp4>(1);
// With the fifth bit 0, and with 1.
inline constexpr Nibble16 of_q5_0[] = {nibbles_of<block_values::q5_0>(6), nibbles_of<block_values::q5_0>(6, 255)},
                          of_q5_1[] = {nibbles_of<block_values::q5_1>(8), nibbles_of<block_values::q5_1>(8, 255)};
// The upper two of Q6_K's six bits with what is taken off: two bits more are of other values.
inline constexpr Nibble16 of_q6_k_upper = {{-32, -16, 0, 16, -32, -16, 0, 16, -32, -16, 0, 16, -32, -16, 0, 16},
                                           {-32, -16, 0, 16, -32, -16, 0, 16, -32, -16, 0, 16, -32, -16, 0, 16}};

template <class T>
T number_at(const Byte* at) {
  T number;
  std::memcpy(&number, at, sizeof number);
  return number;
}

inline __m128i bytes_at(const Byte* at) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(at)); }

/// By the half of a scale at b, and the half of a minimum behind it.
template <class V, bool has_minimum>
typename V::Codes scaled(const Nibble16& nibbles, const Byte* b) {
  if constexpr (has_minimum) {
    const auto [scale, minimum] = V::halves(b);
    return V::codes(nibbles, scale, minimum);
  } else {
    return V::codes(nibbles, V::half(b));
  }
}

// A format is the size of its blocks and `unpack`, which gives the values of a block: give(i, values from number i on,
// values from number i + 16 on).

/// 16 bytes of two values each: the low nibbles are those from number i on.
template <class V, class F>
void give_pairs(std::int64_t i, const Byte* pairs, typename V::Codes codes, F& give) {
  const auto low = V::nibbles(pairs);
  give(i, V::values(low, codes), V::values(V::template shifted<4>(low), codes));
}

template <const Nibble16& nibbles, bool has_minimum>
struct FourBits {
  static constexpr std::int64_t bytes = has_minimum ? 20 : 18, elements = 32;
  template <class V, class F>
  static void unpack(const Byte* b, F& give) {
    give_pairs<V>(0, b + (has_minimum ? 4 : 2), scaled<V, has_minimum>(nibbles, b), give);
  }
};

struct Mxfp4 {
  static constexpr std::int64_t bytes = 17, elements = 32;
  template <class V, class F>
  static void unpack(const Byte* b, F& give) {
    give_pairs<V>(0, b + 1, V::codes(of_mxfp4, V::all(block_values::e8m0_half_at(b))), give);
  }
};

template <const Nibble16 (&nibbles)[2], bool has_minimum>
struct FiveBits {
  static constexpr std::int64_t bytes = has_minimum ? 24 : 22, elements = 32;
  template <class V, class F>
  static void unpack(const Byte* b, F& give) {
    const Byte* fifths = b + (has_minimum ? 4 : 2);
    const auto zero = scaled<V, has_minimum>(nibbles[0], b), one = scaled<V, has_minimum>(nibbles[1], b);
    const auto low = V::nibbles(fifths + 4);
    give(0, V::values(low, V::mask_of_bits(fifths), zero, one),
         V::values(V::template shifted<4>(low), V::mask_of_bits(fifths + 2), zero, one));
  }
};

struct Q8_0 {
  static constexpr std::int64_t bytes = 34, elements = 32;
  template <class V, class F>
  static void unpack(const Byte* b, F& give) {
    const auto scale = V::half(b);
    give(0, V::times(scale, V::floats(bytes_at(b + 2))), V::times(scale, V::floats(bytes_at(b + 18))));
  }
};

/// Of the eight groups of a block of Q4_K or Q5_K: block_values::scale_and_minimum for all of them.
template <class V>
struct Groups {
  alignas(64) float scales[16], minima[16];  // the first 8 of these, the last 8 of those, negative

  explicit Groups(const Byte* b) {
    const auto first = number_at<std::uint32_t>(b + 4), second = number_at<std::uint32_t>(b + 8),
               third = number_at<std::uint32_t>(b + 12);
    const auto of_later = [](std::uint32_t low, std::uint32_t high) {
      return (low & 0x0f0f0f0fU) | (high >> 6U & 0x03030303U) << 4U;
    };
    const std::uint32_t each[] = {first & 0x3f3f3f3fU, of_later(third, first), second & 0x3f3f3f3fU,
                                  of_later(third >> 4U, second)};
    const auto integers = V::floats(_mm_setr_epi32(static_cast<int>(each[0]), static_cast<int>(each[1]),
                                                   static_cast<int>(each[2]), static_cast<int>(each[3])));
    const auto [d, dmin] = V::halves(b);
    V::store(V::times(d, integers), scales);
    V::store(V::times(V::times(dmin, V::all(-1)), integers), minima);
  }
  typename V::Codes codes(int group, const Nibble16& nibbles) const {
    return V::codes(nibbles, V::all(scales[group]), V::all(minima[8 + group]));
  }
};

struct Q4_K {
  static constexpr std::int64_t bytes = 144, elements = 256;
  template <class V, class F>
  static void unpack(const Byte* b, F& give) {
    const Groups<V> groups(b);
    for (int group = 0; group < 8; group += 2) {
      const Byte* pairs = b + 16 + group * 16;
      const auto left = V::nibbles(pairs), right = V::nibbles(pairs + 16);
      const auto low = groups.codes(group, of_q4_1), high = groups.codes(group + 1, of_q4_1);
      give(group * 32, V::values(left, low), V::values(right, low));
      give(group * 32 + 32, V::values(V::template shifted<4>(left), high),
           V::values(V::template shifted<4>(right), high));
    }
  }
};

struct Q5_K {
  static constexpr std::int64_t bytes = 176, elements = 256;
  template <class V, class F>
  static void unpack(const Byte* b, F& give) {
    const Groups<V> groups(b);
    const Byte* fifths = b + 16;
#pragma GCC unroll 8
    for (int group = 0; group < 8; ++group) {
      const Byte* pairs = b + 48 + group / 2 * 32;
      const auto nibbles = [&](int i) {
        const auto low = V::nibbles(pairs + i);
        return group % 2 == 0 ? low : V::template shifted<4>(low);
      };
      const auto zero = groups.codes(group, of_q5_1[0]), one = groups.codes(group, of_q5_1[1]);
      give(group * 32, V::values(nibbles(0), V::mask_of_bit(fifths, group), zero, one),
           V::values(nibbles(16), V::mask_of_bit(fifths + 16, group), zero, one));
    }
  }
};

struct Q6_K {
  static constexpr std::int64_t bytes = 210, elements = 256;

  /// 32 of the 128 values of a half.
  template <int quarter, class V, class F>
  static void give_quarter(std::int64_t first, const Byte* pairs, const Byte* upper, const float* scales, F& give) {
    const auto values = [&](int i) {
      const auto low = V::template shifted<quarter / 2 * 4>(V::nibbles(pairs + quarter % 2 * 32 + i));
      const auto high = V::template shifted<quarter * 2>(V::nibbles(upper + i));
      return V::times(V::all(scales[2 * quarter + i / 16]), V::sum_of_values(low, of_q4_1, high, of_q6_k_upper));
    };
    give(first + 32 * quarter, values(0), values(16));
  }

  template <class V, class F>
  static void unpack(const Byte* b, F& give) {
    alignas(64) float scales[16];
    V::store(V::times(V::half(b + 208), V::floats(bytes_at(b + 192))), scales);
    for (int half = 0; half < 2; ++half) {
      const Byte *pairs = b + half * 64, *upper = b + 128 + half * 32;
      give_quarter<0, V>(half * 128, pairs, upper, scales + half * 8, give);
      give_quarter<1, V>(half * 128, pairs, upper, scales + half * 8, give);
      give_quarter<2, V>(half * 128, pairs, upper, scales + half * 8, give);
      give_quarter<3, V>(half * 128, pairs, upper, scales + half * 8, give);
    }
  }
};

struct Iq4_XS {
  static constexpr std::int64_t bytes = 136, elements = 256;
  template <class V, class F>
  static void unpack(const Byte* b, F& give) {
    const auto d = V::half(b);
    const int upper = number_at<std::uint16_t>(b + 2);
    for (int group = 0; group < 8; ++group) {
      const int scale = ((b[4 + group / 2] >> (group % 2 * 4) & 15) | (upper >> (2 * group) & 3) << 4) - 32;
      const auto codes = V::codes(of_iq4_nl, V::times(d, V::all(static_cast<float>(scale))));
      give_pairs<V>(group * 32, b + 8 + group * 16, codes, give);
    }
  }
};

/// Two sums for each row, of the first and of the second 16 of 32 values: one alone would wait for itself. Flattened,
/// for values have to stay in registers.
template <class V, class Format, int rows>
[[gnu::flatten]] void dots(const std::byte* from, std::int64_t blocks, const float* a, std::int64_t step,
                           float* results) {
  const auto* b = reinterpret_cast<const Byte*>(from);
  typename V::Floats sums[rows][2] = {};
  const auto multiply = [&](std::int64_t i, typename V::Floats left, typename V::Floats right) {
#pragma GCC unroll 4
    for (int row = 0; row < rows; ++row) {
      const float* x = a + row * step + i;
      sums[row][0] = V::multiply_add(left, V::load(x), sums[row][0]);
      sums[row][1] = V::multiply_add(right, V::load(x + 16), sums[row][1]);
    }
  };
  for (std::int64_t block = 0; block < blocks; ++block, b += Format::bytes, a += Format::elements)
    Format::template unpack<V>(b, multiply);
#pragma GCC unroll 4
  for (int row = 0; row < rows; ++row) results[row] = V::sum(sums[row][0], sums[row][1]);
}

template <class V, class Format, int... before>
constexpr std::array<BlockDots, sizeof...(before)> by_rows(std::integer_sequence<int, before...>) {
  return {{dots<V, Format, before + 1>...}};
}
template <class V, class Format>
inline constexpr auto dots_of = by_rows<V, Format>(std::make_integer_sequence<int, V::most_rows>());

template <class V>
std::span<const BlockDots> by_format(BlockFormat format) {
  switch (format) {
    case BlockFormat::Q4_0:
      return dots_of<V, FourBits<of_q4_0, false>>;
    case BlockFormat::Q4_1:
      return dots_of<V, FourBits<of_q4_1, true>>;
    case BlockFormat::Q5_0:
      return dots_of<V, FiveBits<of_q5_0, false>>;
    case BlockFormat::Q5_1:
      return dots_of<V, FiveBits<of_q5_1, true>>;
    case BlockFormat::Q8_0:
      return dots_of<V, Q8_0>;
    case BlockFormat::Q4_K:
      return dots_of<V, Q4_K>;
    case BlockFormat::Q5_K:
      return dots_of<V, Q5_K>;
    case BlockFormat::Q6_K:
      return dots_of<V, Q6_K>;
    case BlockFormat::IQ4_NL:
      return dots_of<V, FourBits<of_iq4_nl, false>>;
    case BlockFormat::IQ4_XS:
      return dots_of<V, Iq4_XS>;
    case BlockFormat::MXFP4:
      return dots_of<V, Mxfp4>;
    default:
      return {};
  }
}

}  // namespace limbeck::kernels::block_dots_of
