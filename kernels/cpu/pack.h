// How the factors of bfloat16 products are laid out: values of a row, or of two rows one below the other, as pairs.
#pragma once

#include <cstdint>
#include <cstring>
#include <utility>

#include "kernels/bf16.h"

namespace limbeck::kernels {

/// 16 pairs of neighbours, the first in the low half.
using Pairs = std::uint32_t __attribute__((vector_size(64), may_alias));

namespace pack_detail {

/// Exchanges the blocks of `size` lanes off the diagonal.
template <int size, int... lane>
void exchange(Pairs (&rows)[16], std::integer_sequence<int, lane...>) {
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) {
    if ((i & size) != 0) continue;
    const Pairs above = rows[i], below = rows[i + size];
    rows[i] = __builtin_shufflevector(above, below, ((lane & size) != 0 ? 16 + lane - size : lane)...);
    rows[i + size] = __builtin_shufflevector(above, below, ((lane & size) != 0 ? 16 + lane : lane + size)...);
  }
}

}  // namespace pack_detail

inline std::uint32_t bits_of(bf16 x) { return x.bits; }
inline std::uint32_t bits_of(float x) { return as<bf16>(x).bits; }

/// The pairs of 32 values of a row.
template <class W>
void pairs_of_row(const W* from, Pairs& pairs) {
  alignas(64) std::uint16_t values[32];
#pragma omp simd
  for (int i = 0; i < 32; ++i) values[i] = static_cast<std::uint16_t>(bits_of(from[i]));
  std::memcpy(&pairs, values, sizeof pairs);
}

/// The pairs that 16 values make with those below them.
template <class W>
void pairs_of_rows(const W* from, const W* below, Pairs& pairs) {
  alignas(64) std::uint32_t both[16];
#pragma omp simd
  for (int i = 0; i < 16; ++i) both[i] = bits_of(from[i]) | bits_of(below[i]) << 16U;
  std::memcpy(&pairs, both, sizeof pairs);
}

/// Rows of 16 pairs become columns.
inline void transpose(Pairs (&rows)[16]) {
  constexpr auto lanes = std::make_integer_sequence<int, 16>();
  pack_detail::exchange<8>(rows, lanes);
  pack_detail::exchange<4>(rows, lanes);
  pack_detail::exchange<2>(rows, lanes);
  pack_detail::exchange<1>(rows, lanes);
}

}  // namespace limbeck::kernels
