// Rows of a root-mean-square norm, a block to a row: the norm alone and that of a sum (kernels/add_rms_norm.h) are the
// same kernels, so that both give the same bits. A row is kept in registers between the two looks at it, all of its
// reads under way at once; what is beyond the first vectors of each thread is read twice.
#pragma once

#include <cmath>
#include <cstdint>

#include "kernels/cuda/column_sums.cuh"
#include "kernels/cuda/grid.h"
#include "kernels/cuda/reduce.cuh"
#include "kernels/cuda/vector.cuh"

namespace limbeck::kernels {

inline constexpr unsigned norm_threads = 256;  // of a block at most, for the registers of what each keeps

/// Vectors of a row that a thread keeps: of up to 1024 all (threads_for_row).
inline constexpr int kept_vectors = 4;

/// The places of a row that a thread has: c, c + step, ... below width.
template <int N>
struct Columns {
  int width, begin, step;
  __device__ explicit Columns(int of_row)
      : width(of_row), begin(static_cast<int>(threadIdx.x) * N), step(static_cast<int>(blockDim.x) * N) {}
  /// f(k, c) for the vectors that are kept.
  template <class F>
  __device__ void kept(F f) const {
#pragma unroll
    for (int k = 0; k < kept_vectors; ++k)
      if (begin + k * step < width) f(k, begin + k * step);
  }
  /// f(c) for those beyond.
  template <class F>
  __device__ void others(F f) const {
    for (int c = begin + kept_vectors * step; c < width; c += step) f(c);
  }
};

/// sum = x + delta where there is a delta, else x; its inverse root mean square; y = sum r weight.
template <class X, class Y, bool Whole>
__global__ void __launch_bounds__(norm_threads)
    rms_norm_kernel(const X* x, const Y* delta, const Acc<X>* weight, X* sum, Y* y, Acc<X>* inverse_rms,
                    std::int64_t rows, int width, Acc<X> eps) {
  using A = Acc<X>;
  constexpr int N = vector_length<X, Y>;
  const Columns<N> columns(width);
  for (std::int64_t t = blockIdx.x; t < rows; t += gridDim.x) {
    const std::int64_t first = t * width;
    Values<X, N> row[kept_vectors];
    A squares = 0;
    const auto summed = [&](int c) {
      auto v = read<N, Whole>(x + first + c, width - c);
      if (delta == nullptr) return v;
      const auto d = load<N, Whole>(delta + first + c, width - c);
      for (int j = 0; j < N; ++j) v[j] = rounded<X>(as<A>(v[j]) + d[j]);
      return v;
    };
    const auto add_squares = [&](const Values<X, N>& raw, int c) {
      const auto v = widened(raw);
      for (int j = 0; j < N; ++j) squares += v[j] * v[j];
      if (delta != nullptr) store<Whole>(sum + first + c, v, width - c);
    };
    columns.kept([&](int k, int c) { row[k] = summed(c); });
    columns.kept([&](int k, int c) { add_squares(row[k], c); });
    columns.others([&](int c) { add_squares(summed(c), c); });
    const A r = 1 / std::sqrt(block_sum(squares) / static_cast<A>(width) + eps);
    if (threadIdx.x == 0) inverse_rms[t] = r;
    const auto normalise = [&](const Values<X, N>& raw, int c) {
      auto v = widened(raw);
      const auto w = load<N, Whole>(weight + c, width - c);
      for (int j = 0; j < N; ++j) v[j] = v[j] * r * w[j];
      store<Whole>(y + first + c, v, width - c);
    };
    columns.kept([&](int k, int c) { normalise(row[k], c); });
    columns.others([&](int c) { normalise(read<N, Whole>(sum + first + c, width - c), c); });
  }
}

/// `sum` is x where delta is null; nothing is written to it then.
template <class X, class Y>
void launch_rms_norm(const Cuda& cuda, const X* x, const Y* delta, const Acc<X>* weight, X* sum, Y* y,
                     Acc<X>* inverse_rms, std::int64_t rows, std::int64_t width, double eps) {
  constexpr int N = vector_length<X, Y>;
  if (rows == 0) return;
  const bool whole = are_rows_aligned<N>(width, x, delta, weight, sum, y);
  gpu::launch(cuda, whole ? rms_norm_kernel<X, Y, true> : rms_norm_kernel<X, Y, false>, blocks_for(cuda, rows),
              threads_for_row(ceil_div(width, N), norm_threads), 0, x, delta, weight, sum, y, inverse_rms, rows,
              static_cast<int>(width), static_cast<Acc<X>>(eps));
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
};

/// A part's rows in turn. Its part of the weight's gradient is added up in registers too, beyond the kept vectors in
/// its place.
template <class X, class Y, bool Whole>
__global__ void __launch_bounds__(norm_threads) rms_norm_gradient_kernel(RmsNormGradient<X, Y> g) {
  using A = Acc<X>;
  constexpr int N = vector_length<X, Y>;
  const int width = g.width;
  const Columns<N> columns(width);
  for (std::int64_t p = blockIdx.x; p * g.rows_a_part < g.rows; p += gridDim.x) {
    A* part = g.parts + p * width;
    Values<A, N> sums[kept_vectors] = {};
    const std::int64_t end = g.rows < (p + 1) * g.rows_a_part ? g.rows : (p + 1) * g.rows_a_part;
    for (std::int64_t t = p * g.rows_a_part; t < end; ++t) {
      const X* x_row = g.x + t * width;
      const Y* dy_row = g.dy + t * width;
      const A r = g.inverse_rms[t];
      Values<X, N> x[kept_vectors];
      Values<Y, N> dy[kept_vectors];
      A dot = 0;
      const auto add_dot = [&](const Values<X, N>& raw_x, const Values<Y, N>& raw_dy, int c) {
        const auto vx = widened(raw_x);
        const auto vdy = widened(raw_dy);
        const auto w = load<N, Whole>(g.weight + c, width - c);
        for (int j = 0; j < N; ++j) dot += w[j] * vdy[j] * vx[j];
      };
      columns.kept([&](int k, int c) {
        x[k] = read<N, Whole>(x_row + c, width - c);
        dy[k] = read<N, Whole>(dy_row + c, width - c);
      });
      columns.kept([&](int k, int c) { add_dot(x[k], dy[k], c); });
      columns.others(
          [&](int c) { add_dot(read<N, Whole>(x_row + c, width - c), read<N, Whole>(dy_row + c, width - c), c); });
      const A along = block_sum(dot) * r * r * r / static_cast<A>(width);
      const auto write = [&](const Values<X, N>& raw_x, const Values<Y, N>& raw_dy, int c, Values<A, N>& sum) {
        const auto vx = widened(raw_x);
        const auto vdy = widened(raw_dy);
        const auto w = load<N, Whole>(g.weight + c, width - c);
        X* to = g.dx + t * width + c;
        const auto before = g.add ? load<N, Whole>(to, width - c) : Values<A, N>{};
        Values<A, N> dx;
        for (int j = 0; j < N; ++j) {
          const A d = std::fma(r * w[j], vdy[j], -(along * vx[j]));
          dx[j] = as<A>(rounded<X>(g.add ? before[j] + d : d));
          sum[j] += vdy[j] * vx[j] * r;
        }
        store<Whole>(to, dx, width - c);
        if (g.ddelta != nullptr) store<Whole>(g.ddelta + t * width + c, dx, width - c);
      };
      columns.kept([&](int k, int c) { write(x[k], dy[k], c, sums[k]); });
      columns.others([&](int c) {
        const bool goes_on = g.parts != nullptr && t > p * g.rows_a_part;
        auto sum = goes_on ? load<N, Whole>(part + c, width - c) : Values<A, N>{};
        write(read<N, Whole>(x_row + c, width - c), read<N, Whole>(dy_row + c, width - c), c, sum);
        if (g.parts != nullptr) store<Whole>(part + c, sum, width - c);
      });
    }
    if (g.parts != nullptr) columns.kept([&](int k, int c) { store<Whole>(part + c, sums[k], width - c); });
  }
}

template <class X, class Y>
void rms_norm_gradient(const Cuda& cuda, const RmsNormGradient<X, Y>& g) {
  constexpr int N = vector_length<X, Y>;
  if (g.rows == 0 || g.width == 0) return;
  const bool whole = are_rows_aligned<N>(g.width, g.x, g.weight, g.dy, g.dx, g.ddelta, g.parts);
  gpu::launch(cuda, whole ? rms_norm_gradient_kernel<X, Y, true> : rms_norm_gradient_kernel<X, Y, false>,
              blocks_for(cuda, ceil_div(g.rows, g.rows_a_part)), threads_for_row(ceil_div(g.width, N), norm_threads), 0,
              g);
}

}  // namespace limbeck::kernels
