// Products of groups of rows with a matrix each, whose sizes the kernels read on the device: a fixed number of blocks
// takes tiles of the results in turns.
//
//     grouped_product(cuda, {groups, n, k, Transpose::Yes}, offsets, rows, weights, beta, y);
//     grouped_product_of_terms(cuda, groups, m, n, offsets, dy, rows, beta, dweights);
//
// Sums are in Acc<T> in the order of their terms, with one rounding. No group is cut into parts of a sum: equal
// arguments give equal bits.
#pragma once

#include <cstdint>

#include "kernels/bf16.h"
#include "kernels/cuda/cuda.h"
#include "kernels/matmul.h"

namespace limbeck::kernels {

struct GroupedShape {
  std::int64_t groups = 0;
  std::int64_t n = 0, k = 0;
  Transpose transpose_b = Transpose::No;
};

/// y_e [rows_e,n] = rows_e [rows_e,k] op(B_e) + beta y_e. B_e is stored as [k,n], or as [n,k] if transposed; group e is
/// rows [offsets[e], offsets[e+1]). (T,B,C): (float,float,float), (float,bf16,float), (double,double,double),
/// (double,bf16,double), (bf16,bf16,bf16), (bf16,bf16,float).
template <class T, class B, class C>
void grouped_product(const Cuda& cuda, const GroupedShape& shape, const std::int64_t* offsets, const T* rows,
                     const B* b, double beta, C* y);

/// C_e [m,n] = a_e^T b_e + beta C_e, of rows a_e [rows_e,m] and b_e [rows_e,n]. (T,C): (float,float), (double,double),
/// (bf16,float).
template <class T, class C>
void grouped_product_of_terms(const Cuda& cuda, std::int64_t groups, std::int64_t m, std::int64_t n,
                              const std::int64_t* offsets, const T* a, const T* b, double beta, C* c);

}  // namespace limbeck::kernels
