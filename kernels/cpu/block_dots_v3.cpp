// By AVX2: sixteen floats are two registers, and nibbles choose of 16 bytes, which become floats then.
#include "kernels/cpu/block_dots_of.h"

namespace limbeck::kernels {
namespace {

using block_dots_of::bytes_at;
using block_dots_of::Nibble16;
using block_dots_of::number_at;
using block_values::Byte;

struct Sixteen {
  struct Floats {
    __m256 low, high;
  };
  using Nibbles = __m128i;  // a byte each
  struct Codes {
    __m128i bytes;
    Floats scale, minimum;
  };
  using Mask = __m128i;  // bytes of 0 or 255
  struct Pair {
    Floats first, second;
  };
  static constexpr int most_rows = 2;

  static Floats load(const float* from) { return {_mm256_loadu_ps(from), _mm256_loadu_ps(from + 8)}; }
  static void store(const Floats& x, float* to) {
    _mm256_store_ps(to, x.low);
    _mm256_store_ps(to + 8, x.high);
  }
  static Floats twice(__m256 x) { return {x, x}; }
  static Floats all(float x) { return twice(_mm256_set1_ps(x)); }
  static Floats times(const Floats& a, const Floats& b) {
    return {_mm256_mul_ps(a.low, b.low), _mm256_mul_ps(a.high, b.high)};
  }
  static Floats multiply_add(const Floats& a, const Floats& b, const Floats& c) {
    return {_mm256_fmadd_ps(a.low, b.low, c.low), _mm256_fmadd_ps(a.high, b.high, c.high)};
  }
  static float sum(const Floats& a, const Floats& b) {
    const __m256 eight = _mm256_add_ps(_mm256_add_ps(a.low, b.low), _mm256_add_ps(a.high, b.high));
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
  }

  static Floats half(const Byte* at) { return twice(_mm256_cvtph_ps(_mm_set1_epi16(number_at<std::int16_t>(at)))); }
  static Pair halves(const Byte* at) {
    const __m256 both = _mm256_cvtph_ps(_mm_set1_epi32(number_at<std::int32_t>(at)));
    return {twice(_mm256_moveldup_ps(both)), twice(_mm256_movehdup_ps(both))};
  }
  static Floats floats(__m128i bytes) {
    return {_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes)),
            _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_srli_si128(bytes, 8)))};
  }

  static Nibbles nibbles(const Byte* at) { return bytes_at(at); }
  template <int bits>
  static Nibbles shifted(Nibbles nibbles) {
    return _mm_srli_epi16(nibbles, bits);
  }
  static __m128i chosen(Nibbles nibbles, __m128i of) {
    return _mm_shuffle_epi8(of, _mm_and_si128(nibbles, _mm_set1_epi8(15)));
  }
  static __m128i bytes_of(const Nibble16& of) { return _mm_load_si128(reinterpret_cast<const __m128i*>(of.bytes)); }
  static Codes codes(const Nibble16& of, const Floats& scale) {
    return {bytes_of(of), scale, twice(_mm256_setzero_ps())};
  }
  static Codes codes(const Nibble16& of, const Floats& scale, const Floats& minimum) {
    return {bytes_of(of), scale, minimum};
  }
  static Floats values(Nibbles nibbles, const Codes& codes) {
    return multiply_add(codes.scale, floats(chosen(nibbles, codes.bytes)), codes.minimum);
  }

  static Mask mask_of_bits(const Byte* at) {
    const __m128i bits = _mm_shuffle_epi8(_mm_set1_epi16(number_at<std::int16_t>(at)),
                                          _mm_setr_epi8(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1));
    const __m128i own = _mm_set1_epi64x(static_cast<long long>(0x8040201008040201ULL));
    return _mm_cmpeq_epi8(_mm_and_si128(bits, own), own);
  }
  static Mask mask_of_bit(const Byte* at, int bit) {
    const __m128i own = _mm_set1_epi8(static_cast<char>(1 << bit));
    return _mm_cmpeq_epi8(_mm_and_si128(bytes_at(at), own), own);
  }
  static Floats values(Nibbles nibbles, Mask mask, const Codes& codes, const Codes& others) {
    const __m128i bytes = _mm_blendv_epi8(chosen(nibbles, codes.bytes), chosen(nibbles, others.bytes), mask);
    return multiply_add(codes.scale, floats(bytes), codes.minimum);
  }
  static Floats sum_of_values(Nibbles a, const Nibble16& of_a, Nibbles b, const Nibble16& of_b) {
    return floats(_mm_add_epi8(chosen(a, bytes_of(of_a)), chosen(b, bytes_of(of_b))));
  }
};

}  // namespace

std::span<const BlockDots> block_dots(BlockFormat format) { return block_dots_of::by_format<Sixteen>(format); }

}  // namespace limbeck::kernels
