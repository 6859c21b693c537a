// D = alpha op(A) op(B) + beta C as cuBLASLt's descriptors say it, checked as the library would and computed on the
// host: sums over k in float32 of numbers that are bfloat16 or float32, in float64 of float64, from the first k on.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "tests/cuda_emulation/blas/descriptors.h"
#include "tests/cuda_emulation/races/stream_order.h"

namespace limbeck::emulation {

struct BlasProblem {
  BlasDescription description;
  BlasLayout a, b, c, d;
};

/// CUBLAS_STATUS_SUCCESS, or what the library says of it.
cublasStatus_t check_problem(const BlasProblem& problem);

/// Of all that an algorithm depends on.
std::uint64_t hash_of(const BlasProblem& problem);

struct BlasOperands {
  const void *alpha, *a, *b, *beta, *c;
  void* d;
};

/// What a matrix that begins there covers, column by column (or row by row).
std::vector<MemoryRange> ranges_of(const void* begin, const BlasLayout& layout);

/// Computes it; C is not read where beta is 0. Fails where a matrix is not allocated memory of the GPU.
void compute_product(const BlasProblem& problem, const BlasOperands& operands);

}  // namespace limbeck::emulation
