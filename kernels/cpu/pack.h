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

using Halves = std::uint16_t __attribute__((vector_size(64), may_alias));

template <int first, int... lane>
void interleave(const Halves& above, const Halves& below, Pairs& pairs, std::integer_sequence<int, lane...>) {
  const Halves both = __builtin_shufflevector(above, below, (first + lane / 2 + (lane % 2 == 0 ? 0 : 32))...);
  std::memcpy(&pairs, &both, sizeof pairs);
}

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

/// The pairs that 32 values make with those below them: of the first 16, and of the others.
inline void pairs_of_rows(const bf16* from, const bf16* below, Pairs& left, Pairs& right) {
  pack_detail::Halves upper, lower;
  std::memcpy(&upper, from, sizeof upper);
  std::memcpy(&lower, below, sizeof lower);
  constexpr auto lanes = std::make_integer_sequence<int, 32>();
  pack_detail::interleave<0>(upper, lower, left, lanes);
  pack_detail::interleave<16>(upper, lower, right, lanes);
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
