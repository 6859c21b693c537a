// FP8 on the processor, which has no arithmetic for it: factors are widened to float32 and multiplied so.
#include "kernels/fp8.h"

#include <algorithm>
#include <cmath>

#include "kernels/cpu/cpu_cache.h"
#include "kernels/cpu/larger.h"
#include "kernels/cpu/parallel_for.h"
#include "kernels/matmul.h"

namespace limbeck::kernels {
namespace {

constexpr std::int64_t least_values = 1 << 15;  // that are worth a thread

template <class T>
float greatest_of(const T* x, std::int64_t n) {
  float greatest = 0;
#pragma omp simd reduction(max : greatest)
  for (std::int64_t i = 0; i < n; ++i) greatest = larger(greatest, std::abs(as<float>(x[i])));
  return greatest;
}

/// The codes are copied by their bits: GCC vectorises no loop that copies an e4m3.
template <class T>
void quantise(const T* x, float scale, e4m3* values, std::int64_t n) {
  const float inverse = 1 / scale;
#pragma omp simd
  for (std::int64_t i = 0; i < n; ++i) values[i].bits = e4m3(as<float>(x[i]) * inverse).bits;
}

/// to[i] = values[i] * scale_of(block of i), of a row.
template <class F>
void widen(const e4m3* values, std::int64_t k, F&& scale_of, float* to) {
  for (std::int64_t first = 0; first < k; first += fp8_block) {
    const float scale = scale_of(first / fp8_block);
    const std::int64_t end = std::min(k, first + fp8_block);
#pragma omp simd
    for (std::int64_t i = first; i < end; ++i) to[i] = static_cast<float>(values[i]) * scale;
  }
}

}  // namespace

template <class D>
bool has_fp8_products(const D&) {
  return false;
}

template <class D>
void quantise_rows(const D& cpu, std::int64_t rows, std::int64_t k, const bf16* x, e4m3* values, float* scales) {
  parallel_for(cpu, rows, least_values / std::max<std::int64_t>(k, 1), [=](std::int64_t begin, std::int64_t end) {
    for (std::int64_t row = begin; row < end; ++row)
      for (std::int64_t first = 0; first < k; first += fp8_block) {
        const std::int64_t at = row * k + first, count = std::min(fp8_block, k - first);
        const float scale = fp8_scale(greatest_of(x + at, count));
        quantise(x + at, scale, values + at, count);
        scales[first / fp8_block * rows + row] = scale;
      }
  });
}

template <class D, class W>
void quantise_blocks(const D& cpu, std::int64_t rows, std::int64_t columns, const W* w, e4m3* values, float* scales,
                     e4m3* transposed, float* transposed_scales) {
  std::fill_n(scales, num_block_scales(rows, columns), 0.F);
  std::fill_n(transposed_scales, num_block_scales(columns, rows), 0.F);
  const std::int64_t across = fp8_blocks(columns);
  parallel_for(cpu, fp8_blocks(rows) * across, 2, [=](std::int64_t begin, std::int64_t end) {
    for (std::int64_t block = begin; block < end; ++block) {
      const std::int64_t i = block / across, j = block % across, column = j * fp8_block;
      const std::int64_t end_row = std::min(rows, (i + 1) * fp8_block), count = std::min(fp8_block, columns - column);
      float greatest = 0;
      for (std::int64_t row = i * fp8_block; row < end_row; ++row)
        greatest = larger(greatest, greatest_of(w + row * columns + column, count));
      const float scale = fp8_scale(greatest);
      scales[i * block_scales_row(columns) + j] = scale;
      transposed_scales[j * block_scales_row(rows) + i] = scale;
      for (std::int64_t row = i * fp8_block; row < end_row; ++row) {
        e4m3* const codes = values + row * columns + column;
        quantise(w + row * columns + column, scale, codes, count);
        for (std::int64_t c = 0; c < count; ++c) transposed[(column + c) * rows + row] = codes[c];
      }
    }
  });
}

template <class D, class C>
void fp8_matmul(const D& cpu, std::int64_t m, std::int64_t n, std::int64_t k, const Fp8Factor& a, const Fp8Factor& b,
                float beta, C* c) {
  const bool is_wide = std::is_same_v<C, float>;
  float* const rows = cpu.cache->fp8.template get<float>(m * k + n * k + (is_wide ? 0 : m * n));
  float* const weight = rows + m * k;
  const std::int64_t grain = least_values / std::max<std::int64_t>(k, 1);
  parallel_for(cpu, m, grain, [=](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i)
      widen(
          a.values + i * k, k, [&](std::int64_t block) { return a.scales[block * m + i]; }, rows + i * k);
  });
  parallel_for(cpu, n, grain, [=](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      const float* const scales = b.scales + i / fp8_block * block_scales_row(k);
      widen(
          b.values + i * k, k, [&](std::int64_t block) { return scales[block]; }, weight + i * k);
    }
  });
  if constexpr (std::is_same_v<C, float>) {
    matmul(cpu, Transpose::No, Transpose::Yes, m, n, k, rows, weight, beta, c);
  } else {
    float* const sums = weight + n * k;
    matmul(cpu, Transpose::No, Transpose::Yes, m, n, k, rows, weight, 0.F, sums);
    parallel_for(cpu, m * n, least_values, [=](std::int64_t begin, std::int64_t end) {
      if (beta == 0) {
#pragma omp simd
        for (std::int64_t i = begin; i < end; ++i) c[i] = as<C>(sums[i]);
      } else {
#pragma omp simd
        for (std::int64_t i = begin; i < end; ++i) c[i] = as<C>(sums[i] + beta * as<float>(c[i]));
      }
    });
  }
}

template bool has_fp8_products(const Cpu&);
template void quantise_rows(const Cpu&, std::int64_t, std::int64_t, const bf16*, e4m3*, float*);
template void quantise_blocks(const Cpu&, std::int64_t, std::int64_t, const float*, e4m3*, float*, e4m3*, float*);
template void quantise_blocks(const Cpu&, std::int64_t, std::int64_t, const bf16*, e4m3*, float*, e4m3*, float*);
template void fp8_matmul(const Cpu&, std::int64_t, std::int64_t, std::int64_t, const Fp8Factor&, const Fp8Factor&,
                         float, float*);
template void fp8_matmul(const Cpu&, std::int64_t, std::int64_t, std::int64_t, const Fp8Factor&, const Fp8Factor&,
                         float, bf16*);

}  // namespace limbeck::kernels
