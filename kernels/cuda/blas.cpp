#include "kernels/cuda/blas.h"

#include <algorithm>
#include <stdexcept>
#include <string>

#include "kernels/copy.h"
#include "kernels/elementwise.h"

namespace limbeck::kernels {
namespace {

template <class T>
constexpr cudaDataType type_of() {
  if constexpr (std::is_same_v<T, float>)
    return CUDA_R_32F;
  else if constexpr (std::is_same_v<T, double>)
    return CUDA_R_64F;
  else
    return CUDA_R_16BF;
}

/// A handle of the library's that is given back.
template <class Handle, cublasStatus_t (*destroy)(Handle)>
class Owned {
 public:
  Owned() = default;
  ~Owned() {
    if (handle_ != nullptr) destroy(handle_);
  }
  Owned(const Owned&) = delete;
  Owned& operator=(const Owned&) = delete;
  Handle* address() { return &handle_; }
  operator Handle() const { return handle_; }  // NOLINT(google-explicit-constructor)

 private:
  Handle handle_ = nullptr;
};
using Description = Owned<cublasLtMatmulDesc_t, cublasLtMatmulDescDestroy>;
using Layout = Owned<cublasLtMatrixLayout_t, cublasLtMatrixLayoutDestroy>;
using Preference = Owned<cublasLtMatmulPreference_t, cublasLtMatmulPreferenceDestroy>;

/// The greatest power of two, up to 256, that divides an address.
std::uint32_t alignment_of(const void* p) {
  const auto address = reinterpret_cast<std::uintptr_t>(p) | 256U;
  return static_cast<std::uint32_t>(address & (~address + 1));
}

/// A matrix that lies [rows,columns] in rows of `row` values, or transposed, as the library's columns.
void describe(Layout& layout, cudaDataType type, std::int64_t rows, std::int64_t columns, std::int64_t row) {
  check_blas(cublasLtMatrixLayoutCreate(layout.address(), type, static_cast<std::uint64_t>(columns),
                                        static_cast<std::uint64_t>(rows), row));
}

void set_alignment(Preference& preference, cublasLtMatmulPreferenceAttributes_t attribute, std::uint32_t bytes) {
  check_blas(cublasLtMatmulPreferenceSetAttribute(preference, attribute, &bytes, sizeof bytes));
}

}  // namespace

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
  CudaState& state = *cuda.state;
  const cublasOperation_t of_a = transpose_a == Transpose::Yes ? CUBLAS_OP_T : CUBLAS_OP_N;
  const cublasOperation_t of_b = transpose_b == Transpose::Yes ? CUBLAS_OP_T : CUBLAS_OP_N;
  const bool is_double = std::is_same_v<T, double>;
  const cudaDataType scale_type = is_double ? CUDA_R_64F : CUDA_R_32F;

  Description description;
  check_blas(
      cublasLtMatmulDescCreate(description.address(), is_double ? CUBLAS_COMPUTE_64F : CUBLAS_COMPUTE_32F, scale_type));
  check_blas(cublasLtMatmulDescSetAttribute(description, CUBLASLT_MATMUL_DESC_TRANSA, &of_b, sizeof of_b));
  check_blas(cublasLtMatmulDescSetAttribute(description, CUBLASLT_MATMUL_DESC_TRANSB, &of_a, sizeof of_a));
  Layout layout_a, layout_b, layout_c;
  if (transpose_a == Transpose::No)
    describe(layout_a, type_of<T>(), m, k, row_a > 0 ? row_a : k);
  else
    describe(layout_a, type_of<T>(), k, m, row_a > 0 ? row_a : m);
  if (transpose_b == Transpose::No)
    describe(layout_b, type_of<T>(), k, n, n);
  else
    describe(layout_b, type_of<T>(), n, k, k);
  describe(layout_c, type_of<C>(), m, n, row);

  const BlasShape key{
      type_of<T>(), type_of<C>(), of_a, of_b, m, n, k, row_a, row, {alignment_of(a), alignment_of(b), alignment_of(c)}};
  auto plan = state.plans.find(key);
  if (plan == state.plans.end()) {
    Preference preference;
    check_blas(cublasLtMatmulPreferenceCreate(preference.address()));
    const std::size_t workspace = CudaState::workspace_bytes;
    check_blas(cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace,
                                                    sizeof workspace));
    set_alignment(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, key.alignment[1]);
    set_alignment(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, key.alignment[0]);
    set_alignment(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, key.alignment[2]);
    set_alignment(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, key.alignment[2]);
    cublasLtMatmulHeuristicResult_t advice{};
    int found = 0;
    check_blas(cublasLtMatmulAlgoGetHeuristic(state.blas, description, layout_b, layout_a, layout_c, layout_c,
                                              preference, 1, &advice, &found));
    if (found == 0)
      throw std::runtime_error("matmul: cuBLASLt has no product of " + std::to_string(m) + "x" + std::to_string(n) +
                               "x" + std::to_string(k));
    plan = state.plans.emplace(key, advice.algo).first;
  }
  const float alpha_float = 1, beta_float = static_cast<float>(beta);
  const double alpha_double = 1;
  const void* alpha = is_double ? static_cast<const void*>(&alpha_double) : &alpha_float;
  const void* scaled_by = is_double ? static_cast<const void*>(&beta) : &beta_float;
  check_blas(cublasLtMatmul(state.blas, description, alpha, b, layout_b, a, layout_a, scaled_by, c, layout_c, c,
                            layout_c, &plan->second, state.workspace, CudaState::workspace_bytes, state.stream));
}

template void blas_product(const Cuda&, const ProductShape&, const float*, const float*, double, float*, std::int64_t);
template void blas_product(const Cuda&, const ProductShape&, const double*, const double*, double, double*,
                           std::int64_t);
template void blas_product(const Cuda&, const ProductShape&, const bf16*, const bf16*, double, float*, std::int64_t);
template void blas_product(const Cuda&, const ProductShape&, const bf16*, const bf16*, double, bf16*, std::int64_t);

}  // namespace limbeck::kernels
