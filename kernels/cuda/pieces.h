// Products with a right factor that has to be expanded first: by pieces of its rows, in memory that is kept for them.
//
//     expand_and_multiply(cuda, shape, a, beta, c, [&](std::int64_t first, std::int64_t count, float* to) { ... });
#pragma once

#include <algorithm>
#include <cstdint>

#include "kernels/cuda/blas.h"

namespace limbeck::kernels {

/// C [m,n] = op(A) op(B) + beta C with contiguous A and C; expand(first, count, to) queues what writes B's values
/// [first, first + count), as B is stored. Those are whole rows: columns of C where B is transposed, terms of its sums
/// where it is not.
template <class T, class C, class F>
void expand_and_multiply(const Cuda& cuda, const ProductShape& shape, const T* a, double beta, C* c, F&& expand) {
  const auto& [transpose_a, transpose_b, m, n, k, row_a] = shape;
  const bool is_transposed = transpose_b == Transpose::Yes;
  const std::int64_t rows = is_transposed ? n : k, width = is_transposed ? k : n;
  constexpr auto room = static_cast<std::int64_t>(CudaState::pieces_bytes / sizeof(T));
  const std::int64_t at_once = std::max<std::int64_t>(1, std::min(rows, room / std::max<std::int64_t>(width, 1)));
  T* const piece = static_cast<T*>(cuda.state->pieces());
  if (rows == 0 || width == 0) return blas_product<T, C>(cuda, shape, a, piece, beta, c, n);
  for (std::int64_t first = 0; first < rows; first += at_once) {
    const std::int64_t count = std::min(at_once, rows - first);
    expand(first * width, count * width, piece);
    if (is_transposed)
      blas_product<T, C>(cuda, {transpose_a, transpose_b, m, count, k}, a, piece, beta, c + first, n);
    else if (transpose_a == Transpose::No)
      blas_product<T, C>(cuda, {transpose_a, transpose_b, m, n, count, k}, a + first, piece, first == 0 ? beta : 1, c,
                         n);
    else
      blas_product<T, C>(cuda, {transpose_a, transpose_b, m, n, count}, a + first * m, piece, first == 0 ? beta : 1, c,
                         n);
  }
}

}  // namespace limbeck::kernels
