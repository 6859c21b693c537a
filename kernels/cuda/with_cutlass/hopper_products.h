// Grouped products by CUTLASS's kernels for Hopper: matrices come by TMA, products are those of warp groups (wgmma), a
// block a multiprocessor takes tiles in turns, and sizes and places of the groups are read on the device.
//
//     if (hopper_grouped_product(cuda, problem, Transpose::Yes, rows, weights, beta, y)) return;
#pragma once

#include "kernels/bf16.h"
#include "kernels/cuda/cuda.h"
#include "kernels/cuda/grouped_problem.h"
#include "kernels/matmul.h"

namespace limbeck::kernels {

/// As grouped_product (kernels/cuda/grouped_product.h). False, and nothing is done, on another GPU than Hopper and
/// where a matrix does not begin at, or a row is not, a multiple of 16 bytes.
bool hopper_grouped_product(const Cuda& cuda, const GroupedProblem& problem, Transpose transpose_b, const bf16* rows,
                            const bf16* b, float beta, bf16* y);

/// As grouped_product_of_terms, likewise.
bool hopper_grouped_product_of_terms(const Cuda& cuda, const GroupedProblem& problem, const bf16* a, const bf16* b,
                                     float beta, float* c);

}  // namespace limbeck::kernels
