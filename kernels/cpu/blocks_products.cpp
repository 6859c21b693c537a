#include <algorithm>
#include <memory>
#include <span>

#include "kernels/blocks.h"
#include "kernels/cpu/block_dots.h"
#include "kernels/cpu/cpu_cache.h"
#include "kernels/cpu/gemm.h"
#include "kernels/packed.h"

namespace limbeck::kernels {
namespace {

constexpr std::int64_t most_few_rows = 8;      // that are multiplied with a row of B as soon as it is expanded
constexpr std::int64_t values_at_once = 2048;  // of a row of B: whole blocks of any format

/// The terms are added in 32 sums, number i % 32 for term i, and those pairwise.
float dot(const float* a, const float* b, std::int64_t count) {
  using Floats = float __attribute__((vector_size(32), may_alias, aligned(4)));
  Floats sums[4] = {};
  std::int64_t i = 0;
  for (; i + 32 <= count; i += 32)
    for (int part = 0; part < 4; ++part)
      sums[part] +=
          *reinterpret_cast<const Floats*>(a + i + 8 * part) * *reinterpret_cast<const Floats*>(b + i + 8 * part);
  for (; i < count; ++i) sums[i % 32 / 8][i % 8] += a[i] * b[i];
  const Floats sum = (sums[0] + sums[2]) + (sums[1] + sums[3]);
  return ((sum[0] + sum[4]) + (sum[2] + sum[6])) + ((sum[1] + sum[5]) + (sum[3] + sum[7]));
}

/// C = A B^T + beta C of few rows of A. A row of B is read once; where it cannot be multiplied as it is, it is expanded
/// by parts. The bits of a row of C do not depend on the others, nor on the threads.
void multiply_few(const Cpu& cpu, std::int64_t m, std::int64_t n, std::int64_t k, const float* a, const Blocks& b,
                  float beta, float* c) {
  const std::int64_t elements = size_of(b.format).elements;
  const std::span<const BlockDots> dots = block_dots(b.format);
  parallel_for(cpu, n, 1 + (1 << 14) / (k + 1), [=](std::int64_t begin, std::int64_t end) {
    alignas(64) float values[values_at_once];
    for (std::int64_t j = begin; j < end; ++j) {
      float results[most_few_rows] = {};
      if (!dots.empty()) {
        for (std::int64_t i = 0, count = 0; i < m; i += count) {
          count = std::min(m - i, std::ssize(dots));
          dots[static_cast<std::size_t>(count - 1)](b.from(j * k).data, k / elements, a + i * k, k, results + i);
        }
      } else {
        for (std::int64_t p = 0; p < k; p += values_at_once) {
          const std::int64_t count = std::min(values_at_once, k - p);
          expand(b.from(j * k + p), count / elements, values);
          for (std::int64_t i = 0; i < m; ++i) results[i] += dot(a + i * k + p, values, count);
        }
      }
      for (std::int64_t i = 0; i < m; ++i) c[i * n + j] = beta == 0 ? results[i] : results[i] + beta * c[i * n + j];
    }
  });
}

void multiply(const Cpu& cpu, std::int64_t m, std::int64_t n, std::int64_t k, const float* a, const Blocks& b,
              float beta, float* c, float* tile) {
  const std::int64_t elements = size_of(b.format).elements;
  gemm_widened(
      cpu, Transpose::No, Transpose::Yes, m, n, k, a,
      [&](std::int64_t first, std::int64_t count, float* out) {
        parallel_for(cpu, count / k, 1 + (1 << 14) / (k + 1), [=](std::int64_t begin, std::int64_t end) {
          expand(b.from(first + begin * k), (end - begin) * k / elements, out + begin * k);
        });
      },
      beta, c, tile);
}

}  // namespace

template <class D>
void expand_blocks(const D& cpu, const Blocks& blocks, std::int64_t count, float* out) {
  constexpr std::int64_t grain = 256;
  const std::int64_t elements = size_of(blocks.format).elements;
  parallel_for(cpu, count, grain, [=](std::int64_t begin, std::int64_t end) {
    expand(blocks.from(begin * elements), end - begin, out + begin * elements);
  });
}

template <class D, class T, class C>
void blocks_matmul(const D& cpu, std::int64_t m, std::int64_t n, std::int64_t k, const T* a, const Blocks& b,
                   float beta, C* c) {
  if constexpr (std::is_same_v<T, bf16>)
    packed_matmul(cpu, m, n, k, a, b, beta, c);
  else if (m <= most_few_rows)
    multiply_few(cpu, m, n, k, a, b, beta, c);
  else
    multiply(cpu, m, n, k, a, b, beta, c, cpu.cache->matmul.template get<float>(widened_tile(n, k)));
}

template <class D, class T>
void blocks_grouped_matmul(const D& cpu, std::int64_t groups, std::int64_t out, std::int64_t in,
                           const std::int64_t* offsets, const T* rows, const Blocks& weight, float beta, T* y) {
  if constexpr (std::is_same_v<T, bf16>) {
    packed_grouped_matmul(cpu, groups, out, in, offsets, rows, weight, beta, y);
  } else {
    for_each_task(cpu, groups, [&, one = Cpu{1, nullptr}](std::int64_t e) {
      const std::int64_t count = offsets[e + 1] - offsets[e];
      const Blocks b = weight.from(e * out * in);
      const T* x = rows + offsets[e] * in;
      if (count == 0) return;
      if (count <= most_few_rows) return multiply_few(one, count, out, in, x, b, beta, y + offsets[e] * out);
      const auto tile = std::make_unique_for_overwrite<T[]>(static_cast<std::size_t>(widened_tile(out, in)));
      multiply(one, count, out, in, x, b, beta, y + offsets[e] * out, tile.get());
    });
  }
}

template <class D, class T>
void blocks_embedding(const D& cpu, const std::int32_t* token, const Blocks& table, T* y, std::int64_t tokens,
                      std::int64_t width, std::int64_t first, std::int64_t rows) {
  const std::int64_t elements = size_of(table.format).elements;
  parallel_for(cpu, tokens, 1 + (1 << 14) / (width + 1), [=](std::int64_t begin, std::int64_t end) {
    alignas(64) float values[values_at_once];
    for (std::int64_t t = begin; t < end; ++t)
      for (std::int64_t p = 0; p < width; p += values_at_once) {
        const std::int64_t row = token[t] - first, count = std::min(values_at_once, width - p);
        const bool exists = row >= 0 && row < rows;
        if (exists) expand(table.from(row * width + p), count / elements, values);
        for (std::int64_t i = 0; i < count; ++i) y[t * width + p + i] = exists ? as<T>(values[i]) : as<T>(0.F);
      }
  });
}

template void blocks_matmul(const Cpu&, std::int64_t, std::int64_t, std::int64_t, const float*, const Blocks&, float,
                            float*);
template void blocks_matmul(const Cpu&, std::int64_t, std::int64_t, std::int64_t, const bf16*, const Blocks&, float,
                            bf16*);
template void blocks_matmul(const Cpu&, std::int64_t, std::int64_t, std::int64_t, const bf16*, const Blocks&, float,
                            float*);
template void blocks_grouped_matmul(const Cpu&, std::int64_t, std::int64_t, std::int64_t, const std::int64_t*,
                                    const float*, const Blocks&, float, float*);
template void blocks_grouped_matmul(const Cpu&, std::int64_t, std::int64_t, std::int64_t, const std::int64_t*,
                                    const bf16*, const Blocks&, float, bf16*);
template void blocks_embedding(const Cpu&, const std::int32_t*, const Blocks&, float*, std::int64_t, std::int64_t,
                               std::int64_t, std::int64_t);
template void blocks_embedding(const Cpu&, const std::int32_t*, const Blocks&, bf16*, std::int64_t, std::int64_t,
                               std::int64_t, std::int64_t);
template void expand_blocks(const Cpu&, const Blocks&, std::int64_t, float*);

}  // namespace limbeck::kernels
