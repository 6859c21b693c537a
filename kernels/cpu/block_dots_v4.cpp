// By AVX-512: sixteen floats are a register, and what nibbles stand for is one, of which they choose.
#include "kernels/cpu/block_dots_of.h"

namespace limbeck::kernels {
namespace {

using block_dots_of::bytes_at;
using block_dots_of::Nibble16;
using block_dots_of::number_at;
using block_values::Byte;

struct Sixteen {
  using Floats = __m512;
  using Nibbles = __m512i;  // a word each
  using Codes = __m512;
  using Mask = __mmask16;
  struct Pair {
    Floats first, second;
  };
  static constexpr int most_rows = 4;

  static Floats load(const float* from) { return _mm512_loadu_ps(from); }
  static void store(Floats x, float* to) { _mm512_store_ps(to, x); }
  static Floats all(float x) { return _mm512_set1_ps(x); }
  static Floats times(Floats a, Floats b) { return _mm512_mul_ps(a, b); }
  static Floats multiply_add(Floats a, Floats b, Floats c) { return _mm512_fmadd_ps(a, b, c); }
  static float sum(Floats a, Floats b) { return _mm512_reduce_add_ps(_mm512_add_ps(a, b)); }

  static Floats half(const Byte* at) { return _mm512_cvtph_ps(_mm256_set1_epi16(number_at<std::int16_t>(at))); }
  static Pair halves(const Byte* at) {
    const Floats both = _mm512_cvtph_ps(_mm256_set1_epi32(number_at<std::int32_t>(at)));
    return {_mm512_moveldup_ps(both), _mm512_movehdup_ps(both)};
  }
  static Floats floats(__m128i bytes) { return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes)); }

  static Nibbles nibbles(const Byte* at) { return _mm512_cvtepu8_epi32(bytes_at(at)); }
  template <int bits>
  static Nibbles shifted(Nibbles nibbles) {
    return _mm512_srli_epi32(nibbles, bits);
  }
  static Codes codes(const Nibble16& of, Floats scale) { return _mm512_mul_ps(scale, _mm512_load_ps(of.floats)); }
  static Codes codes(const Nibble16& of, Floats scale, Floats minimum) {
    return _mm512_fmadd_ps(scale, _mm512_load_ps(of.floats), minimum);
  }
  static Floats values(Nibbles nibbles, Codes codes) { return _mm512_permutexvar_ps(nibbles, codes); }

  static Mask mask_of_bits(const Byte* at) { return number_at<Mask>(at); }
  static Mask mask_of_bit(const Byte* at, int bit) {
    return _mm_test_epi8_mask(bytes_at(at), _mm_set1_epi8(static_cast<char>(1 << bit)));
  }
  static Floats values(Nibbles nibbles, Mask mask, Codes codes, Codes others) {
    return _mm512_mask_permutexvar_ps(values(nibbles, codes), mask, nibbles, others);
  }
  static Floats sum_of_values(Nibbles a, const Nibble16& of_a, Nibbles b, const Nibble16& of_b) {
    return _mm512_add_ps(values(a, _mm512_load_ps(of_a.floats)), values(b, _mm512_load_ps(of_b.floats)));
  }
};

}  // namespace

std::span<const BlockDots> block_dots(BlockFormat format) { return block_dots_of::by_format<Sixteen>(format); }

}  // namespace limbeck::kernels
