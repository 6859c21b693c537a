#include "kernels/matmul.h"

#include "kernels/cpu/cpu_cache.h"
#include "kernels/cpu/gemm.h"

namespace limbeck::kernels {
namespace {

constexpr std::int64_t tile_elements = 1 << 17;  // of a widened weight: half of a second-level cache

template <class T>
const T* widen(const Cpu& cpu, const bf16* from, std::int64_t n) {
  T* to = cpu.cache->matmul.get<T>(n);
  parallel_for(cpu, n, 1 << 14, [=](std::int64_t begin, std::int64_t end) {
#pragma omp simd
    for (std::int64_t i = begin; i < end; ++i) to[i] = static_cast<T>(static_cast<float>(from[i]));
  });
  return to;
}

}  // namespace

template <class T>
void matmul(const Cpu& cpu, Transpose transpose_a, Transpose transpose_b, std::int64_t m, std::int64_t n,
            std::int64_t k, const T* a, const T* b, T beta, T* c) {
  if constexpr (std::is_same_v<T, float>)
    if (transpose_a == Transpose::No && transpose_b == Transpose::Yes && prepared_product(cpu, m, n, k, a, b, beta, c))
      return;
  const std::int64_t lda = transpose_a == Transpose::Yes ? m : k;
  const std::int64_t ldb = transpose_b == Transpose::Yes ? k : n;
  gemm(cpu, transpose_a, transpose_b, m, n, k, a, lda, b, ldb, beta, c, n);
}

template <class T>
void matmul(const Cpu& cpu, Transpose transpose_a, Transpose transpose_b, std::int64_t m, std::int64_t n,
            std::int64_t k, const T* a, const bf16* b, T beta, T* c) {
  const std::int64_t lda = transpose_a == Transpose::Yes ? m : k;
  if (transpose_b == Transpose::Yes) {  // rows of B are columns of C
    const std::int64_t step = std::max<std::int64_t>(tile_elements / std::max<std::int64_t>(k, 1), 1);
    for (std::int64_t j = 0; j < n; j += step) {
      const std::int64_t columns = std::min(step, n - j);
      gemm(cpu, transpose_a, transpose_b, m, columns, k, a, lda, widen<T>(cpu, b + j * k, columns * k), k, beta, c + j,
           n);
    }
    return;
  }
  const std::int64_t step = std::max<std::int64_t>(tile_elements / std::max<std::int64_t>(n, 1), 1);
  for (std::int64_t p = 0; p < std::max<std::int64_t>(k, 1); p += step) {  // once at least: beta applies with k = 0
    const std::int64_t depth = std::min(step, k - p);
    gemm(cpu, transpose_a, transpose_b, m, n, depth, a + p * (transpose_a == Transpose::Yes ? m : 1), lda,
         widen<T>(cpu, b + p * n, depth * n), n, p == 0 ? beta : T(1), c, n);
  }
}

template void matmul(const Cpu&, Transpose, Transpose, std::int64_t, std::int64_t, std::int64_t, const float*,
                     const float*, float, float*);
template void matmul(const Cpu&, Transpose, Transpose, std::int64_t, std::int64_t, std::int64_t, const double*,
                     const double*, double, double*);
template void matmul(const Cpu&, Transpose, Transpose, std::int64_t, std::int64_t, std::int64_t, const float*,
                     const bf16*, float, float*);
template void matmul(const Cpu&, Transpose, Transpose, std::int64_t, std::int64_t, std::int64_t, const double*,
                     const bf16*, double, double*);

}  // namespace limbeck::kernels
