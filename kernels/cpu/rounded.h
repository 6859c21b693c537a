// Values that a step writes twice: as they are, and rounded to bfloat16 while they lie in the first-level cache.
#pragma once

#include <algorithm>
#include <cstdint>

#include "kernels/bf16.h"

namespace limbeck::kernels {

/// rounded[i] = x[i] for first <= i < last, unless rounded is null.
template <class T>
void write_rounded(const T* x, bf16* rounded, std::int64_t first, std::int64_t last) {
  if (rounded == nullptr) return;
#pragma omp simd
  for (std::int64_t i = first; i < last; ++i) rounded[i] = as<bf16>(x[i]);
}

/// f(first, last) for stretches of [begin, end), which writes x there, and then rounded.
template <class T, class F>
void for_each_stretch(const T* x, bf16* rounded, std::int64_t begin, std::int64_t end, F&& f) {
  constexpr std::int64_t length = 1 << 10;
  for (std::int64_t first = begin; first < end; first += length) {
    const std::int64_t last = std::min(end, first + length);
    f(first, last);
    write_rounded(x, rounded, first, last);
  }
}

}  // namespace limbeck::kernels
