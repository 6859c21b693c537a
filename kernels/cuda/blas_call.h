// What calls of cuBLASLt share: its handles, which are given back, and the choice of an algorithm, which is kept by
// shape. The library counts in columns: a matrix that lies in rows is its transposed one.
//
//     BlasCall call(CUBLAS_COMPUTE_32F, CUDA_R_32F);
//     call.set(CUBLASLT_MATMUL_DESC_TRANSA, CUBLAS_OP_T);
//     describe(call.first, CUDA_R_16BF, n, k, k);      // ... call.second, call.result
//     run(cuda, call, shape, b, a, beta, c);
#pragma once

#include <cublasLt.h>

#include <cstdint>
#include <type_traits>

#include "kernels/bf16.h"
#include "kernels/cuda/cuda_state.h"
#include "kernels/e4m3.h"

namespace limbeck::kernels {

template <class T>
constexpr cudaDataType blas_type() {
  if constexpr (std::is_same_v<T, float>)
    return CUDA_R_32F;
  else if constexpr (std::is_same_v<T, double>)
    return CUDA_R_64F;
  else if constexpr (std::is_same_v<T, e4m3>)
    return CUDA_R_8F_E4M3;
  else
    return CUDA_R_16BF;
}

/// A handle of the library's that is given back.
template <class Handle, cublasStatus_t (*destroy)(Handle)>
class OwnedHandle {
 public:
  OwnedHandle() = default;
  ~OwnedHandle() {
    if (handle_ != nullptr) destroy(handle_);
  }
  OwnedHandle(const OwnedHandle&) = delete;
  OwnedHandle& operator=(const OwnedHandle&) = delete;
  Handle* address() { return &handle_; }
  operator Handle() const { return handle_; }  // NOLINT(google-explicit-constructor)

 private:
  Handle handle_ = nullptr;
};
using BlasDescription = OwnedHandle<cublasLtMatmulDesc_t, cublasLtMatmulDescDestroy>;
using BlasLayout = OwnedHandle<cublasLtMatrixLayout_t, cublasLtMatrixLayoutDestroy>;

/// The library's D = A B + beta D: first is A, second is B.
struct BlasCall {
  BlasCall(cublasComputeType_t compute, cudaDataType scale_type) {
    check_blas(cublasLtMatmulDescCreate(description.address(), compute, scale_type));
  }
  template <class T>
  void set(cublasLtMatmulDescAttributes_t attribute, T value) {
    check_blas(cublasLtMatmulDescSetAttribute(description, attribute, &value, sizeof value));
  }

  BlasDescription description;
  BlasLayout first, second, result;
};

/// A matrix that lies [rows,columns] in rows of `row` values, or transposed, as the library's columns.
void describe(BlasLayout& layout, cudaDataType type, std::int64_t rows, std::int64_t columns, std::int64_t row);

/// Queues the call. `shape` is all that the choice depends on but the alignments, which are those of the operands;
/// throws where the library has no such product.
void run(const Cuda& cuda, const BlasCall& call, BlasShape shape, const void* first, const void* second, double beta,
         void* result);

}  // namespace limbeck::kernels
