#include "kernels/matmul.h"

#include "kernels/cpu/cpu_cache.h"
#include "kernels/cpu/few_rows.h"
#include "kernels/cpu/gemm.h"

namespace limbeck::kernels {
namespace {

template <class W>
bool is_of_few_rows(Transpose transpose_a, Transpose transpose_b, std::int64_t m) {
  return transpose_a == Transpose::No && transpose_b == Transpose::Yes && m <= most_few_rows<W>;
}

}  // namespace

template <class D, class T>
void matmul(const D& cpu, Transpose transpose_a, Transpose transpose_b, std::int64_t m, std::int64_t n, std::int64_t k,
            const T* a, const T* b, T beta, T* c) {
  if constexpr (std::is_same_v<T, float>) {
    if (is_of_few_rows<T>(transpose_a, transpose_b, m)) return few_rows_product(cpu, m, n, k, a, b, beta, c);
    if (transpose_a == Transpose::No && transpose_b == Transpose::Yes && prepared_product(cpu, m, n, k, a, b, beta, c))
      return;
  }
  const std::int64_t lda = transpose_a == Transpose::Yes ? m : k;
  const std::int64_t ldb = transpose_b == Transpose::Yes ? k : n;
  gemm(cpu, transpose_a, transpose_b, m, n, k, a, lda, b, ldb, beta, c, n);
}

template <class D, class T>
void matmul(const D& cpu, Transpose transpose_a, Transpose transpose_b, std::int64_t m, std::int64_t n, std::int64_t k,
            const T* a, const bf16* b, T beta, T* c) {
  if constexpr (std::is_same_v<T, float>)
    if (is_of_few_rows<bf16>(transpose_a, transpose_b, m)) return few_rows_product(cpu, m, n, k, a, b, beta, c);
  gemm_widened(cpu, transpose_a, transpose_b, m, n, k, a, b, beta, c,
               cpu.cache->matmul.template get<T>(widened_tile(n, k)));
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
