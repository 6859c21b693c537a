// Without CUTLASS no GPU has grouped products of its own: those of kernels/cuda/grouped_product.cu serve all.
#pragma once

#include "kernels/bf16.h"
#include "kernels/cuda/cuda.h"
#include "kernels/cuda/grouped_problem.h"
#include "kernels/matmul.h"

namespace limbeck::kernels {

inline bool hopper_grouped_product(const Cuda&, const GroupedProblem&, Transpose, const bf16*, const bf16*, float,
                                   bf16*) {
  return false;
}
inline bool hopper_grouped_product_of_terms(const Cuda&, const GroupedProblem&, const bf16*, const bf16*, float,
                                            float*) {
  return false;
}

}  // namespace limbeck::kernels
