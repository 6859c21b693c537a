#include "kernels/matmul.h"

#include <algorithm>

#include "kernels/convert.h"
#include "kernels/cuda/blas.h"
#include "kernels/cuda/pieces.h"

namespace limbeck::kernels {

template <class D, class T>
void matmul(const D& cuda, Transpose transpose_a, Transpose transpose_b, std::int64_t m, std::int64_t n, std::int64_t k,
            const T* a, const T* b, T beta, T* c) {
  blas_product(cuda, {transpose_a, transpose_b, m, n, k}, a, b, static_cast<double>(beta), c, n);
}

template <class D, class T>
void matmul(const D& cuda, Transpose transpose_a, Transpose transpose_b, std::int64_t m, std::int64_t n, std::int64_t k,
            const T* a, const bf16* b, T beta, T* c) {
  expand_and_multiply(cuda, {transpose_a, transpose_b, m, n, k}, a, static_cast<double>(beta), c,
                      [&](std::int64_t first, std::int64_t count, T* to) { convert(cuda, b + first, to, count); });
}

template <class D, class C>
void matmul(const D& cuda, Transpose transpose_a, Transpose transpose_b, std::int64_t m, std::int64_t n, std::int64_t k,
            const bf16* a, const bf16* b, float beta, C* c) {
  blas_product(cuda, {transpose_a, transpose_b, m, n, k}, a, b, static_cast<double>(beta), c, n);
}

template void matmul(const Cuda&, Transpose, Transpose, std::int64_t, std::int64_t, std::int64_t, const float*,
                     const float*, float, float*);
template void matmul(const Cuda&, Transpose, Transpose, std::int64_t, std::int64_t, std::int64_t, const double*,
                     const double*, double, double*);
template void matmul(const Cuda&, Transpose, Transpose, std::int64_t, std::int64_t, std::int64_t, const float*,
                     const bf16*, float, float*);
template void matmul(const Cuda&, Transpose, Transpose, std::int64_t, std::int64_t, std::int64_t, const double*,
                     const bf16*, double, double*);
template void matmul(const Cuda&, Transpose, Transpose, std::int64_t, std::int64_t, std::int64_t, const bf16*,
                     const bf16*, float, float*);
template void matmul(const Cuda&, Transpose, Transpose, std::int64_t, std::int64_t, std::int64_t, const bf16*,
                     const bf16*, float, bf16*);

}  // namespace limbeck::kernels
