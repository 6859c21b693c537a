#include "kernels/cuda/blas.h"

#include "kernels/copy.h"
#include "kernels/cuda/blas_call.h"
#include "kernels/elementwise.h"

namespace limbeck::kernels {

template <class T, class C>
void blas_product(const Cuda& cuda, const ProductShape& shape, const T* a, const T* b, double beta, C* c,
                  std::int64_t row) {
  const auto [transpose_a, transpose_b, m, n, k, row_a] = shape;
  if (m == 0 || n == 0) return;
  if (k == 0) {  // the library takes no empty factors
    for (std::int64_t r = 0; r < m; ++r) {
      if (beta == 0)
        clear_bytes(cuda, c + r * row, n * static_cast<std::int64_t>(sizeof(C)));
      else if (beta != 1)
        scale(cuda, c + r * row, static_cast<Acc<C>>(beta), c + r * row, n);
    }
    return;
  }
  const cublasOperation_t of_a = transpose_a == Transpose::Yes ? CUBLAS_OP_T : CUBLAS_OP_N;
  const cublasOperation_t of_b = transpose_b == Transpose::Yes ? CUBLAS_OP_T : CUBLAS_OP_N;
  const bool is_double = std::is_same_v<T, double>;
  BlasCall call(is_double ? CUBLAS_COMPUTE_64F : CUBLAS_COMPUTE_32F, is_double ? CUDA_R_64F : CUDA_R_32F);
  call.set(CUBLASLT_MATMUL_DESC_TRANSA, of_b);
  call.set(CUBLASLT_MATMUL_DESC_TRANSB, of_a);
  if (transpose_b == Transpose::No)
    describe(call.first, blas_type<T>(), k, n, n);
  else
    describe(call.first, blas_type<T>(), n, k, k);
  if (transpose_a == Transpose::No)
    describe(call.second, blas_type<T>(), m, k, row_a > 0 ? row_a : k);
  else
    describe(call.second, blas_type<T>(), k, m, row_a > 0 ? row_a : m);
  describe(call.result, blas_type<C>(), m, n, row);
  run(cuda, call, {blas_type<T>(), blas_type<C>(), of_a, of_b, m, n, k, row_a, row}, b, a, beta, c);
}

template void blas_product(const Cuda&, const ProductShape&, const float*, const float*, double, float*, std::int64_t);
template void blas_product(const Cuda&, const ProductShape&, const double*, const double*, double, double*,
                           std::int64_t);
template void blas_product(const Cuda&, const ProductShape&, const bf16*, const bf16*, double, float*, std::int64_t);
template void blas_product(const Cuda&, const ProductShape&, const bf16*, const bf16*, double, bf16*, std::int64_t);

}  // namespace limbeck::kernels
