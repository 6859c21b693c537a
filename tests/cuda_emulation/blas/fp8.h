// FP8 matrices with a scale for each block, as cuBLASLt's manual has them (3.1.4.5 "128-element 1D and 128x128 2D Block
// Scaling For FP8 Data Types", and the requirements of FP8 kernels at cublasLtMatmul): on compute capability 9.0; A
// transposed and B not; a scale for 128 terms of each row of one of them or of both, of 128 x 128 of at most one; M and
// N multiples of 4; rows, and the places of matrices and scales, of whole 16 bytes.
#pragma once

#include <vector>

#include "tests/cuda_emulation/blas/product.h"

namespace limbeck::emulation {

bool is_fp8(const BlasProblem& problem);

/// Of a problem of FP8 whose extents fit each other: CUBLAS_STATUS_SUCCESS, or what the library says of it.
cublasStatus_t check_fp8(const BlasProblem& problem);

/// What the scales of A and B cover, in a problem that was checked; nothing in others.
std::vector<MemoryRange> ranges_of_scales(const BlasProblem& problem);

/// Sums of the terms of a block in float32, times its scales, from the first block on.
void compute_fp8(const BlasProblem& problem, const BlasOperands& operands);

}  // namespace limbeck::emulation
