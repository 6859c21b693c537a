#include "kernels/cuda/blas_call.h"

#include <stdexcept>
#include <string>

namespace limbeck::kernels {
namespace {

using Preference = OwnedHandle<cublasLtMatmulPreference_t, cublasLtMatmulPreferenceDestroy>;

/// The greatest power of two, up to 256, that divides an address.
std::uint32_t alignment_of(const void* p) {
  const auto address = reinterpret_cast<std::uintptr_t>(p) | 256U;
  return static_cast<std::uint32_t>(address & (~address + 1));
}

cublasLtMatmulAlgo_t advised(const Cuda& cuda, const BlasCall& call, const BlasShape& shape) {
  Preference preference;
  check_blas(cublasLtMatmulPreferenceCreate(preference.address()));
  const auto set = [&](cublasLtMatmulPreferenceAttributes_t attribute, auto value) {
    check_blas(cublasLtMatmulPreferenceSetAttribute(preference, attribute, &value, sizeof value));
  };
  set(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, CudaState::workspace_bytes);
  set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, shape.alignment[0]);
  set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, shape.alignment[1]);
  set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, shape.alignment[2]);
  set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, shape.alignment[2]);
  cublasLtMatmulHeuristicResult_t advice{};
  int found = 0;
  const cublasStatus_t status =
      cublasLtMatmulAlgoGetHeuristic(cuda.state->blas, call.description, call.first, call.second, call.result,
                                     call.result, preference, 1, &advice, &found);
  if (status != CUBLAS_STATUS_NOT_SUPPORTED) check_blas(status);
  if (status == CUBLAS_STATUS_NOT_SUPPORTED || found == 0)
    throw std::runtime_error("matmul: cuBLASLt has no product of " + std::to_string(shape.m) + "x" +
                             std::to_string(shape.n) + "x" + std::to_string(shape.k));
  return advice.algo;
}

}  // namespace

void describe(BlasLayout& layout, cudaDataType type, std::int64_t rows, std::int64_t columns, std::int64_t row) {
  check_blas(cublasLtMatrixLayoutCreate(layout.address(), type, static_cast<std::uint64_t>(columns),
                                        static_cast<std::uint64_t>(rows), row));
}

void run(const Cuda& cuda, const BlasCall& call, BlasShape shape, const void* first, const void* second, double beta,
         void* result) {
  shape.alignment[0] = alignment_of(first);
  shape.alignment[1] = alignment_of(second);
  shape.alignment[2] = alignment_of(result);
  CudaState& state = *cuda.state;
  auto plan = state.plans.find(shape);
  if (plan == state.plans.end()) plan = state.plans.emplace(shape, advised(cuda, call, shape)).first;
  const bool is_double = shape.type == CUDA_R_64F;
  const float alpha_float = 1, beta_float = static_cast<float>(beta);
  const double alpha_double = 1;
  const void* alpha = is_double ? static_cast<const void*>(&alpha_double) : &alpha_float;
  const void* scaled_by = is_double ? static_cast<const void*>(&beta) : &beta_float;
  check_blas(cublasLtMatmul(state.blas, call.description, alpha, first, call.first, second, call.second, scaled_by,
                            result, call.result, result, call.result, &plan->second, state.workspace,
                            CudaState::workspace_bytes, state.stream));
}

}  // namespace limbeck::kernels
