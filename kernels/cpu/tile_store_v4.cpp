#include <immintrin.h>

#include "kernels/cpu/tile_v4.h"

namespace limbeck::kernels {

void round_rows_avx512_bf16(const float* from, std::int64_t from_step, std::int64_t rows, bf16* to,
                            std::int64_t to_step) {
  for (std::int64_t i = 0; i < rows; ++i, from += from_step, to += to_step)
    _mm512_storeu_si512(to, (__m512i)_mm512_cvtne2ps_pbh(_mm512_loadu_ps(from + 16), _mm512_loadu_ps(from)));
}

void stream_tile_avx512(const float* tile, std::int64_t rows, float* c, std::int64_t step) {
  for (std::int64_t i = 0; i < rows; ++i) {
    _mm512_stream_ps(c + i * step, _mm512_load_ps(tile + i * 32));
    _mm512_stream_ps(c + i * step + 16, _mm512_load_ps(tile + i * 32 + 16));
  }
}

void end_streams() { _mm_sfence(); }

}  // namespace limbeck::kernels
