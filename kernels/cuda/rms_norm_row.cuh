// Rows of a root-mean-square norm, a block to a row: the norm alone and that of a sum (kernels/add_rms_norm.h) are the
// same kernels, so that both give the same bits. A row is kept in shared memory between the two looks at it, each
// thread its own places; one that is too wide is read twice.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "kernels/cuda/grid.h"
#include "kernels/cuda/reduce.cuh"
#include "kernels/cuda/vector.cuh"

namespace limbeck::kernels {

/// Rows whose parts of the weight's gradient are added up in turn before they are added to those of other rows: few
/// enough that a GPU has a block for each of about a thousand parts.
inline std::int64_t rms_norm_rows_a_part(std::int64_t rows) { return std::max<std::int64_t>(4, ceil_div(rows, 1024)); }
inline std::int64_t rms_norm_parts(std::int64_t rows) { return ceil_div(rows, rms_norm_rows_a_part(rows)); }

/// Bytes of shared memory for `bytes` a column, 0 where that would leave a multiprocessor with one block.
inline std::size_t rms_norm_shared(std::int64_t width, int vector, std::size_t bytes) {
  const std::size_t all = static_cast<std::size_t>(ceil_div(width, vector) * vector) * bytes;
  return all <= std::size_t{96} << 10 ? all : 0;
}

/// sum = x + delta where there is a delta, else x; its inverse root mean square; y = sum r weight.
template <class X, class Y, bool Whole>
__global__ void rms_norm_kernel(const X* x, const Y* delta, const Acc<X>* weight, X* sum, Y* y, Acc<X>* inverse_rms,
                                std::int64_t rows, int width, Acc<X> eps, bool in_shared) {
  constexpr int N = vector_length<X, Y>;
  const int begin = static_cast<int>(threadIdx.x) * N, step = static_cast<int>(blockDim.x) * N;
  for (std::int64_t t = blockIdx.x; t < rows; t += gridDim.x) {
    const std::int64_t first = t * width;
    X* kept = in_shared ? gpu::dynamic_shared<X>() : sum + first;
    Acc<X> squares = 0;
    for (int c = begin; c < width; c += step) {
      auto v = load<N, Whole>(x + first + c, width - c);
      if (delta != nullptr) {
        const auto d = load<N, Whole>(delta + first + c, width - c);
        for (int j = 0; j < N; ++j) v[j] = as<Acc<X>>(rounded<X>(v[j] + d[j]));
        store<Whole>(sum + first + c, v, width - c);
      }
      if (in_shared) store(kept + c, v);
      for (int j = 0; j < N; ++j) squares += v[j] * v[j];
    }
    const Acc<X> r = 1 / std::sqrt(block_sum(squares) / static_cast<Acc<X>>(width) + eps);
    if (threadIdx.x == 0) inverse_rms[t] = r;
    for (int c = begin; c < width; c += step) {
      auto v = in_shared ? load<N>(kept + c) : load<N, Whole>(kept + c, width - c);
      const auto w = load<N, Whole>(weight + c, width - c);
      for (int j = 0; j < N; ++j) v[j] = v[j] * r * w[j];
      store<Whole>(y + first + c, v, width - c);
    }
  }
}

/// `sum` is x where delta is null; nothing is written to it then.
template <class X, class Y>
void launch_rms_norm(const Cuda& cuda, const X* x, const Y* delta, const Acc<X>* weight, X* sum, Y* y,
                     Acc<X>* inverse_rms, std::int64_t rows, std::int64_t width, double eps) {
  constexpr int N = vector_length<X, Y>;
  if (rows == 0) return;
  const std::size_t shared = rms_norm_shared(width, N, sizeof(X));
  const bool whole = are_rows_aligned<N>(width, x, delta, weight, sum, y);
  gpu::launch(cuda, whole ? rms_norm_kernel<X, Y, true> : rms_norm_kernel<X, Y, false>, blocks_for(cuda, rows),
              threads_for_row(ceil_div(width, N)), shared, x, delta, weight, sum, y, inverse_rms, rows,
              static_cast<int>(width), static_cast<Acc<X>>(eps), shared > 0);
}

/// What the kernel of the gradient reads and writes; ddelta and parts may be null.
template <class X, class Y>
struct RmsNormGradient {
  const X* x = nullptr;
  const Acc<X>* weight = nullptr;
  const Acc<X>* inverse_rms = nullptr;
  const Y* dy = nullptr;
  bool add = false;
  X* dx = nullptr;
  Y* ddelta = nullptr;
  Acc<X>* parts = nullptr;
  std::int64_t rows = 0, rows_a_part = 1;
  int width = 0;
  bool in_shared = false;
};

/// A part's rows in turn. The sums of its part of the weight's gradient lie in shared memory, in front of the row.
template <class X, class Y, bool Whole>
__global__ void rms_norm_gradient_kernel(RmsNormGradient<X, Y> g) {
  using A = Acc<X>;
  constexpr int N = vector_length<X, Y>;
  const int width = g.width, padded = (width + N - 1) / N * N;
  const int begin = static_cast<int>(threadIdx.x) * N, step = static_cast<int>(blockDim.x) * N;
  A* shared_part = gpu::dynamic_shared<A>();
  X* shared_x = reinterpret_cast<X*>(shared_part + (g.parts != nullptr ? padded : 0));
  Y* shared_dy = reinterpret_cast<Y*>(shared_x + padded);
  for (std::int64_t p = blockIdx.x; p * g.rows_a_part < g.rows; p += gridDim.x) {
    A* part = g.in_shared ? shared_part : g.parts + p * width;
    const std::int64_t end = g.rows < (p + 1) * g.rows_a_part ? g.rows : (p + 1) * g.rows_a_part;
    for (std::int64_t t = p * g.rows_a_part; t < end; ++t) {
      const std::int64_t first = t * width;
      const A r = g.inverse_rms[t];
      A dot = 0;
      for (int c = begin; c < width; c += step) {
        const auto x = load<N, Whole>(g.x + first + c, width - c);
        const auto dy = load<N, Whole>(g.dy + first + c, width - c);
        const auto w = load<N, Whole>(g.weight + c, width - c);
        for (int j = 0; j < N; ++j) dot += w[j] * dy[j] * x[j];
        if (!g.in_shared) continue;
        store(shared_x + c, x);
        store(shared_dy + c, dy);
      }
      const A along = block_sum(dot) * r * r * r / static_cast<A>(width);
      for (int c = begin; c < width; c += step) {
        const auto x = g.in_shared ? load<N>(shared_x + c) : load<N, Whole>(g.x + first + c, width - c);
        const auto dy = g.in_shared ? load<N>(shared_dy + c) : load<N, Whole>(g.dy + first + c, width - c);
        const auto w = load<N, Whole>(g.weight + c, width - c);
        Values<A, N> dx;
        for (int j = 0; j < N; ++j) dx[j] = std::fma(r * w[j], dy[j], -(along * x[j]));
        if (g.parts != nullptr) {
          auto of_rows = t == p * g.rows_a_part ? Values<A, N>{} : load<N, Whole>(part + c, width - c);
          for (int j = 0; j < N; ++j) of_rows[j] += dy[j] * x[j] * r;
          store<Whole>(part + c, of_rows, width - c);
          if (g.in_shared && t + 1 == end) store<Whole>(g.parts + p * width + c, of_rows, width - c);
        }
        if (g.add) {
          const auto before = load<N, Whole>(g.dx + first + c, width - c);
          for (int j = 0; j < N; ++j) dx[j] = as<A>(rounded<X>(before[j] + dx[j]));
        } else if constexpr (sizeof(X) < sizeof(A)) {
          for (int j = 0; j < N; ++j) dx[j] = as<A>(rounded<X>(dx[j]));
        }
        store<Whole>(g.dx + first + c, dx, width - c);
        if (g.ddelta != nullptr) store<Whole>(g.ddelta + first + c, dx, width - c);
      }
    }
  }
}

template <class X, class Y>
void rms_norm_gradient(const Cuda& cuda, RmsNormGradient<X, Y> g) {
  constexpr int N = vector_length<X, Y>;
  if (g.rows == 0 || g.width == 0) return;
  const std::size_t bytes = sizeof(X) + sizeof(Y) + (g.parts != nullptr ? sizeof(Acc<X>) : 0);
  const std::size_t shared = rms_norm_shared(g.width, N, bytes);
  g.in_shared = shared > 0;
  const bool whole = are_rows_aligned<N>(g.width, g.x, g.weight, g.dy, g.dx, g.ddelta, g.parts);
  gpu::launch(cuda, whole ? rms_norm_gradient_kernel<X, Y, true> : rms_norm_gradient_kernel<X, Y, false>,
              blocks_for(cuda, ceil_div(g.rows, g.rows_a_part)), threads_for_row(ceil_div(g.width, N)), shared, g);
}

/// total[c] = Σ parts[.,c], `add` adds it to what is there: a warp's lanes have neighbouring columns, the block's warps
/// the parts by turns.
template <class T>
__global__ void sum_parts_kernel(const T* parts, std::int64_t num_parts, std::int64_t width, bool add, T* total,
                                 std::int64_t columns) {
  constexpr unsigned warps = 16;
  __shared__ T of_warp[warps][warp_size];
  const std::int64_t c = std::int64_t{blockIdx.x} * warp_size + threadIdx.x;
  T sum = 0;
  if (c < columns)
    for (std::int64_t p = threadIdx.y; p < num_parts; p += warps) sum += parts[p * width + c];
  of_warp[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.y > 0 || c >= columns) return;
  for (unsigned w = 1; w < warps; ++w) sum += of_warp[w][threadIdx.x];
  total[c] = add ? total[c] + sum : sum;
}

/// parts [num_parts, width], of which the first `columns` are added up.
template <class T>
void sum_parts(const Cuda& cuda, const T* parts, std::int64_t num_parts, std::int64_t width, bool add, T* total,
               std::int64_t columns) {
  if (columns == 0) return;
  gpu::launch(cuda, sum_parts_kernel<T>, dim3(static_cast<unsigned>(ceil_div(columns, warp_size))), dim3(warp_size, 16),
              0, parts, num_parts, width, add, total, columns);
}

}  // namespace limbeck::kernels
