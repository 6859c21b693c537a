// The float product of a build without OpenMP (ThreadSanitizer's).
#include "kernels/cpu/gemm.h"

namespace limbeck::kernels {

void gemm(const Cpu& cpu, Transpose transpose_a, Transpose transpose_b, std::int64_t m, std::int64_t n, std::int64_t k,
          const float* a, std::int64_t lda, const float* b, std::int64_t ldb, float beta, float* c, std::int64_t ldc) {
  gemm_plain(cpu, transpose_a, transpose_b, m, n, k, a, lda, b, ldb, beta, c, ldc);
}

bool prepared_product(const Cpu&, std::int64_t, std::int64_t, std::int64_t, const float*, const float*, float, float*) {
  return false;
}

}  // namespace limbeck::kernels
