#include <immintrin.h>

#include "kernels/cpu/tile_v4.h"

namespace limbeck::kernels {
namespace {

constexpr int num_rows = 8;                   // whose sums stay in registers, 32 columns of each
constexpr std::int64_t half_block = 16 * 32;  // values of a block's 16 columns

__m512bh load_pairs(const bf16* from) { return (__m512bh)_mm512_load_si512(from); }
/// Two neighbours of a row for every column.
__m512bh repeat_pair(const bf16* from) {
  std::int32_t pair;
  __builtin_memcpy(&pair, from, sizeof pair);
  return (__m512bh)_mm512_set1_epi32(pair);
}

void multiply_rows(const bf16* a, std::int64_t step, const bf16* panel, std::int64_t blocks, bool add, float* tile) {
  __m512 left[num_rows], right[num_rows];
  for (int i = 0; i < num_rows; ++i) {
    left[i] = add ? _mm512_load_ps(tile + i * 32) : _mm512_setzero_ps();
    right[i] = add ? _mm512_load_ps(tile + i * 32 + 16) : _mm512_setzero_ps();
  }
  for (std::int64_t block = 0; block < blocks; ++block, a += 32, panel += 2 * half_block)
    for (int pair = 0; pair < 16; ++pair) {
      const __m512bh in_left = load_pairs(panel + pair * 32), in_right = load_pairs(panel + half_block + pair * 32);
#pragma GCC unroll 8
      for (int i = 0; i < num_rows; ++i) {
        const __m512bh x = repeat_pair(a + i * step + 2 * pair);
        left[i] = _mm512_dpbf16_ps(left[i], x, in_left);
        right[i] = _mm512_dpbf16_ps(right[i], x, in_right);
      }
    }
  for (int i = 0; i < num_rows; ++i) {
    _mm512_store_ps(tile + i * 32, left[i]);
    _mm512_store_ps(tile + i * 32 + 16, right[i]);
  }
}

}  // namespace

void run_avx512_bf16_tile(const bf16* a, std::int64_t step, std::int64_t rows, const bf16* panel, std::int64_t blocks,
                          bool add, float* tile) {
  for (std::int64_t i = 0; i < rows; i += num_rows)
    multiply_rows(a + i * step, step, panel, blocks, add, tile + i * 32);
}

}  // namespace limbeck::kernels
