// The products behind matmul.h and inside tiles of other kernels: parts of row-major matrices, with leading dimensions.
#pragma once

#include <algorithm>
#include <cstdint>

#include "kernels/cpu/parallel_for.h"
#include "kernels/matmul.h"

namespace limbeck::kernels {

/// C [m,n] = op(A) op(B) + beta C; row i of a stored matrix X begins at x + i * ldx. Defined in matmul_onednn.cpp or
/// matmul_plain.cpp.
void gemm(const Cpu& cpu, Transpose transpose_a, Transpose transpose_b, std::int64_t m, std::int64_t n, std::int64_t k,
          const float* a, std::int64_t lda, const float* b, std::int64_t ldb, float beta, float* c, std::int64_t ldc);

/// C [m,n] = A [m,k] B^T [n,k] + beta C by a product prepared for these extents, if that is the faster way; else
/// returns false. Which it is depends on the extents alone.
bool prepared_product(const Cpu& cpu, std::int64_t m, std::int64_t n, std::int64_t k, const float* a, const float* b,
                      float beta, float* c);

/// The portable product: op(B) is copied into panels of a few columns and a tile of C stays in registers.
template <class T>
void gemm_plain(const Cpu& cpu, Transpose transpose_a, Transpose transpose_b, std::int64_t m, std::int64_t n,
                std::int64_t k, const T* a, std::int64_t lda, const T* b, std::int64_t ldb, T beta, T* c,
                std::int64_t ldc) {
  constexpr std::int64_t tile_rows = 4;
  constexpr std::int64_t tile_columns = 16;
  constexpr std::int64_t tile_depth = 256;
  const std::int64_t row_step = transpose_a == Transpose::Yes ? 1 : lda;
  const std::int64_t depth_step = transpose_a == Transpose::Yes ? lda : 1;
  parallel_for(cpu, m, 16, [=](std::int64_t row_begin, std::int64_t row_end) {
    for (std::int64_t i = row_begin; i < row_end; ++i)
      for (std::int64_t j = 0; j < n; ++j) c[i * ldc + j] = beta == 0 ? T(0) : beta * c[i * ldc + j];
    alignas(64) T panel[tile_depth * tile_columns];
    for (std::int64_t p0 = 0; p0 < k; p0 += tile_depth) {
      const std::int64_t depth = std::min(tile_depth, k - p0);
      for (std::int64_t j0 = 0; j0 < n; j0 += tile_columns) {
        const std::int64_t columns = std::min(tile_columns, n - j0);
        for (std::int64_t p = 0; p < depth; ++p)
          for (std::int64_t j = 0; j < tile_columns; ++j)
            panel[p * tile_columns + j] = j >= columns                    ? T(0)
                                          : transpose_b == Transpose::Yes ? b[(j0 + j) * ldb + p0 + p]
                                                                          : b[(p0 + p) * ldb + j0 + j];
        for (std::int64_t i0 = row_begin; i0 < row_end; i0 += tile_rows) {
          const std::int64_t rows = std::min(tile_rows, row_end - i0);
          T sum[tile_rows][tile_columns] = {};
          const T* ai[tile_rows];  // rows beyond the last repeat it and are not stored
          for (std::int64_t i = 0; i < tile_rows; ++i)
            ai[i] = a + (i0 + std::min(i, rows - 1)) * row_step + p0 * depth_step;
          for (std::int64_t p = 0; p < depth; ++p)
            for (std::int64_t i = 0; i < tile_rows; ++i)
#pragma omp simd
              for (std::int64_t j = 0; j < tile_columns; ++j)
                sum[i][j] += ai[i][p * depth_step] * panel[p * tile_columns + j];
          for (std::int64_t i = 0; i < rows; ++i)
            for (std::int64_t j = 0; j < columns; ++j) c[(i0 + i) * ldc + j0 + j] += sum[i][j];
        }
      }
    }
  });
}

inline void gemm(const Cpu& cpu, Transpose transpose_a, Transpose transpose_b, std::int64_t m, std::int64_t n,
                 std::int64_t k, const double* a, std::int64_t lda, const double* b, std::int64_t ldb, double beta,
                 double* c, std::int64_t ldc) {
  gemm_plain(cpu, transpose_a, transpose_b, m, n, k, a, lda, b, ldb, beta, c, ldc);
}

/// Elements of scratch that gemm_widened takes.
inline std::int64_t widened_tile(std::int64_t n, std::int64_t k) {
  constexpr std::int64_t tile_elements = 1 << 17;  // half of a second-level cache
  return std::max({tile_elements, n, k});
}

/// C [m,n] = op(A) op(B) + beta C, all contiguous. widen(first, count, tile) gives elements [first, first + count) of B
/// as it is stored, whole rows.
template <class T, class Widen>
void gemm_widened(const Cpu& cpu, Transpose transpose_a, Transpose transpose_b, std::int64_t m, std::int64_t n,
                  std::int64_t k, const T* a, Widen&& widen, T beta, T* c, T* tile) {
  const auto widened = [&](std::int64_t first, std::int64_t count) {
    widen(first, count, tile);
    return tile;
  };
  const std::int64_t lda = transpose_a == Transpose::Yes ? m : k;
  if (transpose_b == Transpose::Yes) {  // rows of B are columns of C
    const std::int64_t step = std::max<std::int64_t>(widened_tile(n, k) / std::max<std::int64_t>(k, 1), 1);
    for (std::int64_t j = 0; j < n; j += step) {
      const std::int64_t columns = std::min(step, n - j);
      gemm(cpu, transpose_a, transpose_b, m, columns, k, a, lda, widened(j * k, columns * k), k, beta, c + j, n);
    }
    return;
  }
  const std::int64_t step = std::max<std::int64_t>(widened_tile(n, k) / std::max<std::int64_t>(n, 1), 1);
  for (std::int64_t p = 0; p < std::max<std::int64_t>(k, 1); p += step) {  // once at least: beta applies with k = 0
    const std::int64_t depth = std::min(step, k - p);
    gemm(cpu, transpose_a, transpose_b, m, n, depth, a + p * (transpose_a == Transpose::Yes ? m : 1), lda,
         widened(p * n, depth * n), n, p == 0 ? beta : T(1), c, n);
  }
}

/// The same of a B in bfloat16.
template <class T>
void gemm_widened(const Cpu& cpu, Transpose transpose_a, Transpose transpose_b, std::int64_t m, std::int64_t n,
                  std::int64_t k, const T* a, const bf16* b, T beta, T* c, T* tile) {
  const auto widen = [&](std::int64_t first, std::int64_t count, T* out) {
    parallel_for(cpu, count, 1 << 14, [=, from = b + first](std::int64_t begin, std::int64_t end) {
#pragma omp simd
      for (std::int64_t i = begin; i < end; ++i) out[i] = static_cast<T>(static_cast<float>(from[i]));
    });
  };
  gemm_widened(cpu, transpose_a, transpose_b, m, n, k, a, widen, beta, c, tile);
}

}  // namespace limbeck::kernels
