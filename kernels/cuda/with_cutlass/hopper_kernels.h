// The grouped products of hopper_products.h, a file each: an instance takes CUDA's compiler half a minute.
#pragma once

#include "kernels/bf16.h"
#include "kernels/cuda/cuda.h"
#include "kernels/cuda/grouped_problem.h"

namespace limbeck::kernels {

/// c_e [rows_e,n] = a_e [rows_e,k] B_e + beta c_e, with B_e stored as [n,k], or as [k,n].
void hopper_rows_transposed(const Cuda& cuda, const GroupedProblem& p, const bf16* a, const bf16* b, float beta,
                            bf16* c);
void hopper_rows(const Cuda& cuda, const GroupedProblem& p, const bf16* a, const bf16* b, float beta, bf16* c);
/// c_e [m,n] = a_e^T b_e + beta c_e.
void hopper_terms(const Cuda& cuda, const GroupedProblem& p, const bf16* a, const bf16* b, float beta, float* c);

}  // namespace limbeck::kernels
