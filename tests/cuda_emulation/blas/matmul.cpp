// cuBLASLt's product on a stream, and the choice of an algorithm, of which there is one.
#include <cublasLt.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <functional>
#include <string>

#include "tests/cuda_emulation/blas/blas_call.h"
#include "tests/cuda_emulation/blas/fp8.h"
#include "tests/cuda_emulation/blas/product.h"

using namespace limbeck::emulation;

namespace {

constexpr std::uint64_t wanted_workspace = std::uint64_t{64} << 10;

BlasProblem problem_of(cublasLtMatmulDesc_t description, cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                       cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d) {
  return {read_opaque<BlasDescription>(*description), read_opaque<BlasLayout>(*a), read_opaque<BlasLayout>(*b),
          read_opaque<BlasLayout>(*c), read_opaque<BlasLayout>(*d)};
}

bool is_multiple(const void* address, std::uint64_t of) { return reinterpret_cast<std::uintptr_t>(address) % of == 0; }

/// Whether an algorithm that was found may run this.
bool fits(const BlasAlgorithm& algorithm, const BlasProblem& problem, const BlasOperands& x, const void* workspace,
          std::size_t workspace_bytes) {
  return algorithm.problem == hash_of(problem) && algorithm.workspace_bytes <= workspace_bytes &&
         (algorithm.workspace_bytes == 0 || (workspace != nullptr && is_multiple(workspace, 256))) &&
         is_multiple(x.a, algorithm.alignment[0]) && is_multiple(x.b, algorithm.alignment[1]) &&
         is_multiple(x.c, algorithm.alignment[2]) && is_multiple(x.d, algorithm.alignment[3]);
}

std::string text_of(const BlasProblem& p) {
  return "cublasLtMatmul of " + std::to_string(p.d.rows) + " x " + std::to_string(p.d.columns);
}

/// alpha and beta lie where the pointer mode says, those of the host until the call returns.
std::function<void()> work(const BlasProblem& problem, const BlasOperands& operands, void* workspace,
                           std::size_t bytes) {
  std::array<double, 2> scales{};
  const bool of_host = problem.description.pointer_mode == CUBLASLT_POINTER_MODE_HOST;
  const std::size_t scale_bytes = problem.description.scale_type == CUDA_R_64F ? 8 : 4;
  if (of_host) {
    std::memcpy(&scales[0], operands.alpha, scale_bytes);
    std::memcpy(&scales[1], operands.beta, scale_bytes);
  }
  return [=] {
    // Whoever else uses the workspace meanwhile finds this.
    if (workspace != nullptr) std::memset(workspace, 0xff, bytes);
    BlasOperands all = operands;
    if (of_host) {
      all.alpha = &scales[0];
      all.beta = &scales[1];
    }
    compute_product(problem, all);
  };
}

}  // namespace

extern "C" {

cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t handle, cublasLtMatmulDesc_t description,
                                              cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                              cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                              cublasLtMatmulPreference_t preference, int num_requested,
                                              cublasLtMatmulHeuristicResult_t* results, int* num_returned) {
  return blas_call("cublasLtMatmulAlgoGetHeuristic", [&](Lock&) {
    if (num_returned != nullptr) *num_returned = 0;
    if (handle == nullptr) return CUBLAS_STATUS_NOT_INITIALIZED;
    if (num_returned == nullptr || results == nullptr || num_requested < 1 || description == nullptr || a == nullptr ||
        b == nullptr || c == nullptr || d == nullptr || preference == nullptr)
      return CUBLAS_STATUS_INVALID_VALUE;
    const BlasProblem problem = problem_of(description, a, b, c, d);
    if (const cublasStatus_t status = check_problem(problem); status != CUBLAS_STATUS_SUCCESS) return status;
    const auto wishes = read_opaque<BlasPreference>(*preference);
    BlasAlgorithm algorithm{hash_of(problem), std::min(wanted_workspace, wishes.max_workspace_bytes), {}};
    // Accesses of 16 bytes where the operands allow it; FP8 has no others.
    for (int i = 0; i < 4; ++i) algorithm.alignment[i] = std::clamp(wishes.alignment[i], 1U, 16U);
    if (is_fp8(problem) && std::ranges::any_of(algorithm.alignment, [](std::uint32_t bytes) { return bytes < 16; }))
      return CUBLAS_STATUS_NOT_SUPPORTED;
    cublasLtMatmulHeuristicResult_t result{};
    write_opaque(algorithm, result.algo);
    result.workspaceSize = algorithm.workspace_bytes;
    result.state = CUBLAS_STATUS_SUCCESS;
    result.wavesCount = 1;
    results[0] = result;
    *num_returned = 1;
    return CUBLAS_STATUS_SUCCESS;
  });
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t handle, cublasLtMatmulDesc_t description, const void* alpha,
                              const void* a, cublasLtMatrixLayout_t a_layout, const void* b,
                              cublasLtMatrixLayout_t b_layout, const void* beta, const void* c,
                              cublasLtMatrixLayout_t c_layout, void* d, cublasLtMatrixLayout_t d_layout,
                              const cublasLtMatmulAlgo_t* algorithm, void* workspace, std::size_t workspace_bytes,
                              cudaStream_t stream_handle) {
  return blas_call("cublasLtMatmul", [&](Lock& lock) {
    if (handle == nullptr) return CUBLAS_STATUS_NOT_INITIALIZED;
    const auto stream = stream_of(stream_handle);
    if (stream == nullptr || stream->device != current_device()) return CUBLAS_STATUS_EXECUTION_FAILED;
    const void* needed[] = {description, alpha, a, a_layout, b, b_layout, beta, c, c_layout, d, d_layout};
    if (std::find(std::begin(needed), std::end(needed), nullptr) != std::end(needed))
      return CUBLAS_STATUS_INVALID_VALUE;
    const BlasProblem problem = problem_of(description, a_layout, b_layout, c_layout, d_layout);
    if (const cublasStatus_t status = check_problem(problem); status != CUBLAS_STATUS_SUCCESS) return status;
    const BlasOperands operands{alpha, a, b, beta, c, d};
    const std::uint32_t least = is_fp8(problem) ? 16 : 1;
    BlasAlgorithm chosen{hash_of(problem), 0, {least, least, least, least}};
    if (algorithm != nullptr) chosen = read_opaque<BlasAlgorithm>(*algorithm);
    if (!fits(chosen, problem, operands, workspace, workspace_bytes)) return CUBLAS_STATUS_INVALID_VALUE;
    machine().run_some(lock, current_device());
    Operation operation;
    operation.what = [problem] { return text_of(problem); };
    operation.run = work(problem, operands, workspace, chosen.workspace_bytes);
    operation.reads = ranges_of(a, problem.a);
    for (const MemoryRange& range : ranges_of(b, problem.b)) operation.reads.push_back(range);
    for (const MemoryRange& range : ranges_of(c, problem.c)) operation.reads.push_back(range);
    for (const MemoryRange& range : ranges_of_scales(problem)) operation.reads.push_back(range);
    operation.writes = ranges_of(d, problem.d);
    operation.writes.push_back({workspace, chosen.workspace_bytes});
    machine().enqueue(stream, std::move(operation));
    return CUBLAS_STATUS_SUCCESS;
  });
}

}  // extern "C"
