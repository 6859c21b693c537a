// Products of matrices in row-major order by cuBLASLt, which counts in columns: it is given the transposed product,
// C^T = op(B)^T op(A)^T, of the same memory.
//
//     blas_product(cuda, {Transpose::No, Transpose::Yes, m, n, k}, a, b, beta, c, n);
#pragma once

#include <cstdint>

#include "kernels/bf16.h"
#include "kernels/cuda/cuda_state.h"
#include "kernels/matmul.h"

namespace limbeck::kernels {

struct ProductShape {
  Transpose transpose_a = Transpose::No;
  Transpose transpose_b = Transpose::No;
  std::int64_t m = 0, n = 0, k = 0;
  std::int64_t row_a = 0;  // values from a row of A to the next, as it is stored; 0: they follow each other
};

/// C [m,n] = op(A) op(B) + beta C, the rows of C beginning every `row` values. T is float or double, of which C is
/// too, or bf16 with C bf16 or float; products of float are not rounded to TF32, sums are in Acc<T>. Queued.
template <class T, class C>
void blas_product(const Cuda& cuda, const ProductShape& shape, const T* a, const T* b, double beta, C* c,
                  std::int64_t row);

}  // namespace limbeck::kernels
