#include "kernels/cpu/block_dots.h"

#include <immintrin.h>

#include <cstring>

#include "kernels/block_values.h"

namespace limbeck::kernels {
namespace {

using block_values::Byte;
using block_values::Quants;

__m512 floats(const std::int8_t* q) {
  return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_load_si128(reinterpret_cast<const __m128i*>(q))));
}

float half_at(const Byte* at) {
  std::uint16_t bits = 0;
  std::memcpy(&bits, at, sizeof bits);
  return _cvtsh_ss(bits);
}

template <void (*block)(const Byte*, Quants&), std::int64_t bytes, bool has_minimum, float (*scale_at)(const Byte*),
          int rows>
void dots(const std::byte* from, std::int64_t blocks, const float* a, std::int64_t step, const float* sums,
          float* results) {
  const auto* b = reinterpret_cast<const Byte*>(from);
  float of_minima[rows] = {};
  __m512 totals[rows];
  for (__m512& total : totals) total = _mm512_setzero_ps();
  for (std::int64_t i = 0; i < blocks; ++i, b += bytes) {
    alignas(32) Quants q;
    block(b, q);
    const __m512 left = floats(q), right = floats(q + 16), scale = _mm512_set1_ps(scale_at(b));
    const float minimum = has_minimum ? half_at(b + 2) : 0;
#pragma GCC unroll 4
    for (int row = 0; row < rows; ++row) {
      const float* x = a + row * step + i * 32;
      const __m512 sum = _mm512_fmadd_ps(left, _mm512_loadu_ps(x), _mm512_mul_ps(right, _mm512_loadu_ps(x + 16)));
      totals[row] = _mm512_fmadd_ps(scale, sum, totals[row]);
      if (has_minimum) of_minima[row] += minimum * sums[row * blocks + i];
    }
  }
  for (int row = 0; row < rows; ++row) results[row] = _mm512_reduce_add_ps(totals[row]) + of_minima[row];
}

template <void (*block)(const Byte*, Quants&), std::int64_t bytes, bool has_minimum,
          float (*scale_at)(const Byte*) = half_at>
constexpr BlockDots dots_of() {
  return {dots<block, bytes, has_minimum, scale_at, 1>, dots<block, bytes, has_minimum, scale_at, rows_of_dots>};
}

}  // namespace

std::optional<BlockDots> block_dots(BlockFormat format) {
  switch (format) {
    case BlockFormat::Q4_0:
      return dots_of<block_values::q4_0, 18, false>();
    case BlockFormat::Q4_1:
      return dots_of<block_values::q4_1, 20, true>();
    case BlockFormat::Q5_0:
      return dots_of<block_values::q5_0, 22, false>();
    case BlockFormat::Q5_1:
      return dots_of<block_values::q5_1, 24, true>();
    case BlockFormat::Q8_0:
      return dots_of<block_values::q8_0, 34, false>();
    case BlockFormat::IQ4_NL:
      return dots_of<block_values::iq4_nl, 18, false>();
    case BlockFormat::MXFP4:
      return dots_of<block_values::mxfp4, 17, false, block_values::e8m0_half_at>();
    default:
      return std::nullopt;
  }
}

}  // namespace limbeck::kernels
