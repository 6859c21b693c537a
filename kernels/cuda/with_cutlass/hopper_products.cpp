#include "kernels/cuda/with_cutlass/hopper_products.h"

#include <cstdint>
#include <limits>

#include "kernels/cuda/cuda_state.h"
#include "kernels/cuda/with_cutlass/hopper_kernels.h"

namespace limbeck::kernels {
namespace {

bool is_hopper(const Cuda& cuda) { return cuda.state->architecture == 90; }

bool is_aligned(const void* p) { return reinterpret_cast<std::uintptr_t>(p) % 16 == 0; }

/// A row of so many values of 16 bits, which CUTLASS counts in 32 bits.
bool is_width(std::int64_t n) { return n > 0 && n % 8 == 0 && n <= std::numeric_limits<std::int32_t>::max(); }

}  // namespace

bool hopper_grouped_product(const Cuda& cuda, const GroupedProblem& problem, Transpose transpose_b, const bf16* rows,
                            const bf16* b, float beta, bf16* y) {
  if (!is_hopper(cuda) || !is_width(problem.n) || !is_width(problem.k) || !is_aligned(rows) || !is_aligned(b) ||
      !is_aligned(y))
    return false;
  if (transpose_b == Transpose::Yes)
    hopper_rows_transposed(cuda, problem, rows, b, beta, y);
  else
    hopper_rows(cuda, problem, rows, b, beta, y);
  return true;
}

bool hopper_grouped_product_of_terms(const Cuda& cuda, const GroupedProblem& problem, const bf16* a, const bf16* b,
                                     float beta, float* c) {
  if (!is_hopper(cuda) || !is_width(problem.m) || !is_width(problem.n) || !is_aligned(a) || !is_aligned(b) ||
      !is_aligned(c))
    return false;
  hopper_terms(cuda, problem, a, b, beta, c);
  return true;
}

}  // namespace limbeck::kernels
