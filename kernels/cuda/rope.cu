#include "kernels/rope.h"

#include <cmath>

#include "kernels/cuda/elementwise.cuh"

namespace limbeck::kernels {
namespace {

template <class T>
struct Table {
  T* cos;
  T* sin;
  std::int64_t half;
  const double* frequencies;
  double factor;
  template <int N>
  __device__ void run(std::int64_t i) const {
    const double angle = static_cast<double>(i / half) * frequencies[i % half];
    cos[i] = static_cast<T>(factor * std::cos(angle));
    sin[i] = static_cast<T>(factor * std::sin(angle));
  }
};

struct Rows {
  const std::int32_t* position;
  const std::int32_t* context;
  std::int64_t limit, further;
  std::int32_t* row;
  template <int N>
  __device__ void run(std::int64_t t) const {
    row[t] = static_cast<std::int32_t>(position[t] + (context[t] > limit ? further : 0));
  }
};

/// A block turns tokens in turn, a thread N pairs of a head at a time: of the queries first, then of the keys.
template <int N, class T>
__global__ void __launch_bounds__(most_row_threads)
    rope_kernel(RopeHeads<T> queries, RopeHeads<T> keys, const std::int32_t* rows, const Acc<T>* cos, const Acc<T>* sin,
                Acc<T> sign, std::int64_t tokens, int half) {
  const int vectors = half / N;  // of a head
  const int of_queries = static_cast<int>(queries.heads) * vectors;
  const int all = of_queries + static_cast<int>(keys.heads) * vectors;
  for (std::int64_t t = blockIdx.x; t < tokens; t += gridDim.x) {
    const std::int64_t row = std::int64_t{rows[t]} * half;
    for (int i = static_cast<int>(threadIdx.x); i < all; i += static_cast<int>(blockDim.x)) {
      const RopeHeads<T>& heads = i < of_queries ? queries : keys;
      const int at = i < of_queries ? i : i - of_queries;
      const int pair = at % vectors * N;
      T* x = heads.x + (t * heads.heads + at / vectors) * heads.width + heads.first + pair;
      const auto c = load<N>(cos + row + pair), s = load<N>(sin + row + pair);
      const auto low = load<N>(x), high = load<N>(x + half);
      Values<Acc<T>, N> turned_low, turned_high;
      for (int j = 0; j < N; ++j) {
        turned_low[j] = std::fma(low[j], c[j], -(sign * high[j] * s[j]));
        turned_high[j] = std::fma(high[j], c[j], sign * low[j] * s[j]);
      }
      store(x, turned_low);
      store(x + half, turned_high);
    }
  }
}

}  // namespace

template <class D, class T>
void rope_table(const D& cuda, T* cos, T* sin, std::int64_t positions, std::int64_t half, const double* frequencies,
                double factor) {
  for_each_vector<1>(cuda, positions * half, Table<T>{cos, sin, half, frequencies, factor}, cos, sin);
}

template <class D, class T>
void rope(const D& cuda, RopeHeads<T> queries, RopeHeads<T> keys, const std::int32_t* row, const Acc<T>* cos,
          const Acc<T>* sin, int direction, std::int64_t tokens, std::int64_t turning) {
  constexpr int N = vector_length<T>;
  const std::int64_t half = turning / 2, pairs = (queries.heads + keys.heads) * half;
  if (tokens == 0 || pairs == 0) return;
  for (RopeHeads<T>* heads : {&queries, &keys})
    if (heads->width == 0) heads->width = turning;
  const bool aligned = are_rows_aligned<N>(half, queries.x, keys.x, cos, sin) &&
                       are_rows_aligned<N>(queries.width, queries.x + queries.first) &&
                       are_rows_aligned<N>(keys.width, keys.x + keys.first);
  gpu::launch(cuda, aligned ? rope_kernel<N, T> : rope_kernel<1, T>, blocks_for(cuda, tokens),
              threads_for_row(aligned ? pairs / N : pairs), 0, queries, keys, row, cos, sin,
              static_cast<Acc<T>>(direction), tokens, static_cast<int>(half));
}

template <class D>
void rope_rows(const D& cuda, const std::int32_t* position, const std::int32_t* context, std::int64_t limit,
               std::int64_t further, std::int32_t* row, std::int64_t tokens) {
  for_each_vector<1>(cuda, tokens, Rows{position, context, limit, further, row}, position, context, row);
}

template void rope_rows(const Cuda&, const std::int32_t*, const std::int32_t*, std::int64_t, std::int64_t,
                        std::int32_t*, std::int64_t);
template void rope_table(const Cuda&, float*, float*, std::int64_t, std::int64_t, const double*, double);
template void rope_table(const Cuda&, double*, double*, std::int64_t, std::int64_t, const double*, double);

#define LIMBECK_INSTANTIATE(T)                                                                                        \
  template void rope(const Cuda&, RopeHeads<T>, RopeHeads<T>, const std::int32_t*, const Acc<T>*, const Acc<T>*, int, \
                     std::int64_t, std::int64_t);
LIMBECK_INSTANTIATE(float)
LIMBECK_INSTANTIATE(double)
LIMBECK_INSTANTIATE(bf16)

}  // namespace limbeck::kernels
