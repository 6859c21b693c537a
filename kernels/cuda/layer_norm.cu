// A block to a row, which is kept in registers between the looks at it as that of a root-mean-square norm is.
#include "kernels/layer_norm.h"

#include "kernels/cuda/column_sums.cuh"
#include "kernels/cuda/rms_norm_row.cuh"

namespace limbeck::kernels {
namespace {

template <class X, class Y, bool Whole>
__global__ void __launch_bounds__(norm_threads)
    layer_norm_kernel(const X* x, const Acc<X>* weight, const Acc<X>* bias, Y* y, Acc<X>* mean,
                      Acc<X>* inverse_deviation, std::int64_t rows, int width, Acc<X> eps) {
  using A = Acc<X>;
  constexpr int N = vector_length<X, Y>;
  const Columns<N> columns(width);
  for (std::int64_t t = blockIdx.x; t < rows; t += gridDim.x) {
    const X* const from = x + t * width;
    Values<X, N> row[kept_vectors];
    columns.kept([&](int k, int c) { row[k] = read<N, Whole>(from + c, width - c); });
    const auto each = [&](auto&& f) {
      columns.kept([&](int k, int c) { f(widened(row[k]), c); });
      columns.others([&](int c) { f(load<N, Whole>(from + c, width - c), c); });
    };
    A sum = 0;
    each([&](const Values<A, N>& v, int) {  // zeros behind the last
      for (int j = 0; j < N; ++j) sum += v[j];
    });
    const A m = block_sum(sum) / static_cast<A>(width);
    A squares = 0;
    each([&](const Values<A, N>& v, int c) {
      for (int j = 0; j < N; ++j)
        if (Whole || c + j < width) squares += (v[j] - m) * (v[j] - m);
    });
    const A r = 1 / std::sqrt(block_sum(squares) / static_cast<A>(width) + eps);
    if (threadIdx.x == 0) {
      mean[t] = m;
      inverse_deviation[t] = r;
    }
    each([&](const Values<A, N>& of_row, int c) {
      auto v = of_row;
      const auto w = load<N, Whole>(weight + c, width - c), b = load<N, Whole>(bias + c, width - c);
      for (int j = 0; j < N; ++j) v[j] = (v[j] - m) * r * w[j] + b[j];
      store<Whole>(y + t * width + c, v, width - c);
    });
  }
}

template <class X, class Y>
struct Gradient {
  const X* x;
  const Acc<X>* weight;
  const Acc<X>* mean;
  const Acc<X>* inverse_deviation;
  const Y* dy;
  bool add;
  X* dx;
  std::int64_t rows;
  int width;
};

template <class X, class Y, bool Whole>
__global__ void __launch_bounds__(norm_threads, 2) layer_norm_gradient_kernel(Gradient<X, Y> g) {
  using A = Acc<X>;
  constexpr int N = vector_length<X, Y>;
  const int width = g.width;
  const Columns<N> columns(width);
  for (std::int64_t t = blockIdx.x; t < g.rows; t += gridDim.x) {
    const X* const x_row = g.x + t * width;
    const Y* const dy_row = g.dy + t * width;
    const A m = g.mean[t], r = g.inverse_deviation[t];
    Values<X, N> x[kept_vectors];
    Values<Y, N> dy[kept_vectors];
    columns.kept([&](int k, int c) {
      x[k] = read<N, Whole>(x_row + c, width - c);
      dy[k] = read<N, Whole>(dy_row + c, width - c);
    });
    // f of what is normalised and of weight times dy, which is 0 behind the last.
    const auto each = [&](auto&& f) {
      const auto call = [&](const Values<A, N>& of_x, const Values<A, N>& of_dy, int c) {
        auto n = of_x, d = of_dy;
        const auto w = load<N, Whole>(g.weight + c, width - c);
        for (int j = 0; j < N; ++j) {
          n[j] = (n[j] - m) * r;
          d[j] *= w[j];
        }
        f(n, d, c);
      };
      columns.kept([&](int k, int c) { call(widened(x[k]), widened(dy[k]), c); });
      columns.others(
          [&](int c) { call(load<N, Whole>(x_row + c, width - c), load<N, Whole>(dy_row + c, width - c), c); });
    };
    A sum = 0, dot = 0;
    each([&](const Values<A, N>& n, const Values<A, N>& d, int) {
      for (int j = 0; j < N; ++j) {
        sum += d[j];
        dot += d[j] * n[j];
      }
    });
    const A of_mean = block_sum(sum) / static_cast<A>(width), along = block_sum(dot) / static_cast<A>(width);
    each([&](const Values<A, N>& n, const Values<A, N>& weighted, int c) {
      auto d = weighted;
      X* const to = g.dx + t * width + c;
      const auto before = g.add ? load<N, Whole>(to, width - c) : Values<A, N>{};
      for (int j = 0; j < N; ++j) {
        const A dx = r * (d[j] - of_mean - n[j] * along);
        d[j] = g.add ? before[j] + dx : dx;
      }
      store<Whole>(to, d, width - c);
    });
  }
}

/// The terms of the weight's gradient.
template <class X, class Y>
struct LayerNormTerms {
  const X* x;
  const Acc<X>* mean;
  const Acc<X>* inverse_deviation;
  const Y* dy;
  std::int64_t width;
  template <int N, bool Whole>
  __device__ void add(std::int64_t t, std::int64_t c, int count, Values<Acc<X>, N>& sum) const {
    const auto v = load<N, Whole>(x + t * width + c, count);
    const auto d = load<N, Whole>(dy + t * width + c, count);
    const Acc<X> m = mean[t], r = inverse_deviation[t];
    for (int j = 0; j < N; ++j) sum[j] += d[j] * ((v[j] - m) * r);
  }
};

}  // namespace

template <class D, class X, class Y>
void layer_norm(const D& cuda, const X* x, const Acc<X>* weight, const Acc<X>* bias, Y* y, Acc<X>* mean,
                Acc<X>* inverse_deviation, std::int64_t rows, std::int64_t width, double eps) {
  constexpr int N = vector_length<X, Y>;
  if (rows == 0) return;
  const bool whole = are_rows_aligned<N>(width, x, weight, bias, y);
  gpu::launch(cuda, whole ? layer_norm_kernel<X, Y, true> : layer_norm_kernel<X, Y, false>, blocks_for(cuda, rows),
              threads_for_row(ceil_div(width, N), norm_threads), 0, x, weight, bias, y, mean, inverse_deviation, rows,
              static_cast<int>(width), static_cast<Acc<X>>(eps));
}

template <class D, class X, class Y>
void layer_norm_input_gradient(const D& cuda, const X* x, const Acc<X>* weight, const Acc<X>* mean,
                               const Acc<X>* inverse_deviation, const Y* dy, bool add, X* dx, std::int64_t rows,
                               std::int64_t width) {
  constexpr int N = vector_length<X, Y>;
  if (rows == 0 || width == 0) return;
  const bool whole = are_rows_aligned<N>(width, x, weight, dy, dx);
  gpu::launch(cuda, whole ? layer_norm_gradient_kernel<X, Y, true> : layer_norm_gradient_kernel<X, Y, false>,
              blocks_for(cuda, rows), threads_for_row(ceil_div(width, N), norm_threads), 0,
              Gradient<X, Y>{x, weight, mean, inverse_deviation, dy, add, dx, rows, static_cast<int>(width)});
}

template <class D, class X, class Y>
void layer_norm_weight_gradient(const D& cuda, const X* x, const Acc<X>* mean, const Acc<X>* inverse_deviation,
                                const Y* dy, bool add, Acc<X>* dweight, std::int64_t rows, std::int64_t width) {
  sum_columns<vector_length<X, Y>>(cuda, rows, width, add, LayerNormTerms<X, Y>{x, mean, inverse_deviation, dy, width},
                                   dweight, x, dy);
}

#define LIMBECK_INSTANTIATE(X, Y)                                                                                   \
  template void layer_norm(const Cuda&, const X*, const Acc<X>*, const Acc<X>*, Y*, Acc<X>*, Acc<X>*, std::int64_t, \
                           std::int64_t, double);                                                                   \
  template void layer_norm_input_gradient(const Cuda&, const X*, const Acc<X>*, const Acc<X>*, const Acc<X>*,       \
                                          const Y*, bool, X*, std::int64_t, std::int64_t);                          \
  template void layer_norm_weight_gradient(const Cuda&, const X*, const Acc<X>*, const Acc<X>*, const Y*, bool,     \
                                           Acc<X>*, std::int64_t, std::int64_t);
LIMBECK_INSTANTIATE(float, float)
LIMBECK_INSTANTIATE(double, double)
LIMBECK_INSTANTIATE(bf16, bf16)
LIMBECK_INSTANTIATE(float, bf16)

}  // namespace limbeck::kernels
