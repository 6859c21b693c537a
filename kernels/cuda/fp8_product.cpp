#include "kernels/cuda/fp8_product.h"

#include "kernels/cuda/blas_call.h"

namespace limbeck::kernels {

template <class D>
bool has_fp8_products(const D& cuda) {
  return cuda.state->architecture == 90;
}

bool is_for_library(const Cuda& cuda, std::int64_t m, std::int64_t n, std::int64_t k) {
  // Blocks of what is summed are whole: nobody is known to ask for others.
  return has_fp8_products(cuda) && m > 0 && n > 0 && k > 0 && m % 16 == 0 && n % 16 == 0 && k % fp8_block == 0;
}

// In the library's columns C^T = B A^T: the weight is its A, transposed, the rows its B, so that both lie along what is
// summed, the one order that it has for FP8. It needs CUDA 12.9 for the modes of the scales.
template <class C>
void fp8_library_product(const Cuda& cuda, std::int64_t m, std::int64_t n, std::int64_t k, const Fp8Factor& a,
                         const Fp8Factor& b, float beta, C* c) {
  constexpr cudaDataType type = blas_type<e4m3>();
  BlasCall call(CUBLAS_COMPUTE_32F, CUDA_R_32F);
  call.set(CUBLASLT_MATMUL_DESC_TRANSA, CUBLAS_OP_T);
  call.set(CUBLASLT_MATMUL_DESC_TRANSB, CUBLAS_OP_N);
  call.set(CUBLASLT_MATMUL_DESC_A_SCALE_MODE, CUBLASLT_MATMUL_MATRIX_SCALE_BLK128x128_32F);
  call.set(CUBLASLT_MATMUL_DESC_B_SCALE_MODE, CUBLASLT_MATMUL_MATRIX_SCALE_VEC128_32F);
  call.set(CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, b.scales);
  call.set(CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, a.scales);
  describe(call.first, type, n, k, k);
  describe(call.second, type, m, k, k);
  describe(call.result, blas_type<C>(), m, n, n);
  run(cuda, call, {type, blas_type<C>(), CUBLAS_OP_N, CUBLAS_OP_T, m, n, k, k, n}, b.values, a.values,
      static_cast<double>(beta), c);
}

template <class D, class C>
void fp8_matmul(const D& cuda, std::int64_t m, std::int64_t n, std::int64_t k, const Fp8Factor& a, const Fp8Factor& b,
                float beta, C* c) {
  if (is_for_library(cuda, m, n, k))
    fp8_library_product(cuda, m, n, k, a, b, beta, c);
  else
    fp8_plain_product(cuda, m, n, k, a, b, beta, c);
}

template bool has_fp8_products(const Cuda&);
template void fp8_matmul(const Cuda&, std::int64_t, std::int64_t, std::int64_t, const Fp8Factor&, const Fp8Factor&,
                         float, float*);
template void fp8_matmul(const Cuda&, std::int64_t, std::int64_t, std::int64_t, const Fp8Factor&, const Fp8Factor&,
                         float, bf16*);

}  // namespace limbeck::kernels
