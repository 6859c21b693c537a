#include "kernels/aux_losses.h"

#include <cmath>
#include <limits>

#include "kernels/cuda/elementwise.cuh"
#include "kernels/cuda/ordered_sum.cuh"
#include "kernels/cuda/warp_rows.cuh"

namespace limbeck::kernels {
namespace {

struct NoCounts {
  std::int32_t* counts;
  template <int N>
  __device__ void run(std::int64_t i) const {
    counts[i] = 0;
  }
};

/// Whole numbers, whose sum knows no order.
struct CountAssignments {
  const std::int32_t* selection;
  const std::int32_t* sequence;
  std::int32_t* counts;
  std::int64_t experts, selected;
  template <int N>
  __device__ void run(std::int64_t i) const {
    const std::int64_t of = sequence != nullptr ? sequence[i / selected] : 0;
    atomicAdd(&counts[of * experts + selection[i]], 1);
  }
};

template <class T>
struct StoreCounts {
  const std::int32_t* from;
  T* to;
  template <int N>
  __device__ void run(std::int64_t i) const {
    to[i] = static_cast<T>(from[i]);
  }
};

/// weights[s,e] = factor E f[s,e] / T_s, times dloss[0] where it is given. Of the loss over more sequences than are
/// here factor E f[e].
template <class T>
struct WeightsOfSequence {
  const T* counts;
  const T* dloss;
  double* weights;
  std::int64_t experts, selected;
  double factor;
  bool is_shared;
  __device__ void run(std::int64_t s, int lane) const {
    double all = 0;
    for (std::int64_t e = lane; e < experts; e += warp_size) all += static_cast<double>(counts[s * experts + e]);
    all = warp_sum(all);
    const double tokens = is_shared ? 1 : all / static_cast<double>(selected);
    double scale = all > 0 ? factor * static_cast<double>(experts) / (all * tokens) : 0;
    if (dloss != nullptr) scale *= static_cast<double>(dloss[0]);
    for (std::int64_t e = lane; e < experts; e += warp_size)
      weights[s * experts + e] = scale * static_cast<double>(counts[s * experts + e]);
  }
};

/// Of place i of [tokens,experts].
struct WeightOfToken {
  const double* weights;
  const std::int32_t* sequence;
  std::int64_t experts;
  __device__ double at(std::int64_t i) const {
    const std::int64_t of = sequence != nullptr ? sequence[i / experts] : 0;
    return weights[of * experts + i % experts];
  }
};

template <class T>
struct WeightedProbabilities {
  const T* probabilities;
  WeightOfToken weight;
  template <int N, bool Whole>
  __device__ double run(std::int64_t i, int count) const {
    const auto p = load<N, Whole>(probabilities + i, count);
    double sum = 0;
    for (int j = 0; j < N; ++j)
      if (j < count) sum += weight.at(i + j) * static_cast<double>(p[j]);
    return sum;
  }
};

template <class T>
struct BalanceGradient {
  WeightOfToken weight;
  T* dprobabilities;
  template <int N>
  __device__ void run(std::int64_t i) const {
    dprobabilities[i] = static_cast<T>(weight.at(i));
  }
};

template <class T>
struct BalanceSquares {
  const T* probabilities;
  WeightOfToken weight;
  double* squares;
  __device__ void run(std::int64_t t, int lane) const {
    const std::int64_t first = t * weight.experts + lane, end = (t + 1) * weight.experts;
    double mean = 0, square = 0;
    for (std::int64_t i = first; i < end; i += warp_size) mean += weight.at(i) * static_cast<double>(probabilities[i]);
    mean = warp_sum(mean);
    for (std::int64_t i = first; i < end; i += warp_size) {
      const double dz = static_cast<double>(probabilities[i]) * (weight.at(i) - mean);
      square += dz * dz;
    }
    square = warp_sum(square);
    if (lane == 0) squares[t] = square;
  }
};

template <class T>
__device__ double all_counts(const T* counts, std::int64_t experts) {
  double all = 0;
  for (std::int64_t e = 0; e < experts; ++e) all += static_cast<double>(counts[e]);
  return all;
}

template <class T>
struct CountedProbabilities {
  const T* probabilities;
  const T* counts;
  std::int64_t experts;
  template <int N, bool Whole>
  __device__ double run(std::int64_t i, int count) const {
    const auto p = load<N, Whole>(probabilities + i, count);
    double sum = 0;
    for (int j = 0; j < N; ++j)
      if (j < count) sum += static_cast<double>(counts[(i + j) % experts]) * static_cast<double>(p[j]);
    return sum;
  }
};

template <class T>
struct StoreSharedLoss {
  const T* counts;
  std::int64_t experts;
  double weight;
  T* loss;
  __device__ void operator()(double total) const {
    const double all = all_counts(counts, experts);
    loss[0] = static_cast<T>(all > 0 ? weight * static_cast<double>(experts) * total / all : 0);
  }
};

template <class T>
__global__ void shared_gradient_kernel(const T* counts, const T* dloss, T* dprobabilities, BalanceShape shape,
                                       double weight) {
  const double all = all_counts(counts, shape.experts);
  const double scale = all > 0 ? static_cast<double>(dloss[0]) * weight * static_cast<double>(shape.experts) / all : 0;
  const std::int64_t step = std::int64_t{gridDim.x} * blockDim.x;
  for (std::int64_t i = std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < shape.tokens * shape.experts;
       i += step)
    dprobabilities[i] = static_cast<T>(scale * static_cast<double>(counts[i % shape.experts]));
}

template <class T>
struct LogSumExp {
  const T* z;
  T* logsumexp;
  int width;
  __device__ void run(std::int64_t t, int lane) const {
    const T* zt = z + t * width;
    T largest = -std::numeric_limits<T>::infinity();
    for (int e = lane; e < width; e += warp_size) largest = Larger{}(largest, zt[e]);
    largest = warp_reduce(largest, Larger{});
    T sum = 0;
    for (int e = lane; e < width; e += warp_size) sum += std::exp(zt[e] - largest);
    sum = warp_sum(sum);
    if (lane == 0) logsumexp[t] = largest + std::log(sum);
  }
};

template <class T>
struct StoreScaled {
  double factor;
  T* to;
  __device__ void operator()(double total) const { *to = static_cast<T>(factor * total); }
};

template <class T>
struct ZLossGradient {
  const T* z;
  const T* logsumexp;
  const T* dloss;
  T* dz;
  int width;
  T weight;
  __device__ void run(std::int64_t t, int lane) const {
    const T of_row = logsumexp[t], factor = 2 * dloss[0] * weight * of_row;
    for (std::int64_t i = t * width + lane; i < (t + 1) * width; i += warp_size)
      dz[i] = factor * std::exp(z[i] - of_row);
  }
};

template <class T>
struct ZLossSquares {
  const T* z;
  const T* logsumexp;
  double* squares;
  int width;
  double weight;
  __device__ void run(std::int64_t t, int lane) const {
    const T of_row = logsumexp[t];
    double square = 0;
    for (std::int64_t i = t * width + lane; i < (t + 1) * width; i += warp_size) {
      const auto p = static_cast<double>(std::exp(z[i] - of_row));
      square += p * p;
    }
    square = warp_sum(square);
    const double factor = 2 * weight * static_cast<double>(of_row);
    if (lane == 0) squares[t] = factor * factor * square;
  }
};

/// Without a `sequence` (null) those of the loss over more sequences than are here.
template <class T>
WeightOfToken make_weights(const Cuda& cuda, Scratch& scratch, const T* counts, const std::int32_t* sequence,
                           const T* dloss, const BalanceShape& shape, double weight) {
  auto* weights = scratch.take<double>(shape.sequences * shape.experts);
  const bool is_shared = sequence == nullptr;
  for_each_row(cuda, shape.sequences,
               WeightsOfSequence<T>{counts, dloss, weights, shape.experts, shape.selected, weight, is_shared});
  return {weights, sequence, shape.experts};
}

}  // namespace

template <class D, class T>
void count_assignments(const D& cuda, const std::int32_t* selection, const std::int32_t* sequence, T* counts,
                       const BalanceShape& shape) {
  const std::int64_t n = shape.sequences * shape.experts;
  auto* whole = Scratch(cuda).take<std::int32_t>(n);
  for_each_vector<1>(cuda, n, NoCounts{whole});
  for_each_vector<1>(cuda, shape.tokens * shape.selected,
                     CountAssignments{selection, sequence, whole, shape.experts, shape.selected});
  for_each_vector<1>(cuda, n, StoreCounts<T>{whole, counts});
}

template <class D, class T>
void balance_loss(const D& cuda, const T* probabilities, const T* counts, const std::int32_t* sequence, T* loss,
                  const BalanceShape& shape, double weight) {
  Scratch scratch(cuda);
  const WeightOfToken weights = make_weights<T>(cuda, scratch, counts, sequence, nullptr, shape, weight);
  ordered_sum<vector_length<T>>(cuda, scratch, shape.tokens * shape.experts,
                                WeightedProbabilities<T>{probabilities, weights}, StoreScaled<T>{1, loss},
                                probabilities);
}

template <class D, class T>
void balance_loss_gradient(const D& cuda, const T* counts, const std::int32_t* sequence, const T* dloss,
                           T* dprobabilities, const BalanceShape& shape, double weight) {
  Scratch scratch(cuda);
  const WeightOfToken weights = make_weights(cuda, scratch, counts, sequence, dloss, shape, weight);
  for_each_vector<1>(cuda, shape.tokens * shape.experts, BalanceGradient<T>{weights, dprobabilities});
}

template <class D, class T>
void shared_balance_loss(const D& cuda, const T* probabilities, const T* counts, T* loss, const BalanceShape& shape,
                         double weight) {
  Scratch scratch(cuda);
  ordered_sum<vector_length<T>>(cuda, scratch, shape.tokens * shape.experts,
                                CountedProbabilities<T>{probabilities, counts, shape.experts},
                                StoreSharedLoss<T>{counts, shape.experts, weight, loss}, probabilities);
}

template <class D, class T>
void shared_balance_loss_gradient(const D& cuda, const T* counts, const T* dloss, T* dprobabilities,
                                  const BalanceShape& shape, double weight) {
  const std::int64_t n = shape.tokens * shape.experts;
  if (n > 0)
    gpu::launch(cuda, shared_gradient_kernel<T>, blocks_for(cuda, ceil_div(n, usual_threads)), dim3(usual_threads), 0,
                counts, dloss, dprobabilities, shape, weight);
}

template <class D, class T>
void balance_loss_squares(const D& cuda, const T* probabilities, const T* counts, const std::int32_t* sequence,
                          double* squares, const BalanceShape& shape, double weight) {
  Scratch scratch(cuda);
  const WeightOfToken weights = make_weights<T>(cuda, scratch, counts, sequence, nullptr, shape, weight);
  for_each_row(cuda, shape.tokens, BalanceSquares<T>{probabilities, weights, squares});
}

template <class D, class T>
void z_loss(const D& cuda, const T* z, T* logsumexp, T* loss, std::int64_t rows, std::int64_t width, double weight) {
  Scratch scratch(cuda);
  for_each_row(cuda, rows, LogSumExp<T>{z, logsumexp, static_cast<int>(width)});
  ordered_sum<vector_length<T>>(cuda, scratch, rows, Squares<T>{logsumexp}, StoreScaled<T>{weight, loss}, logsumexp);
}

template <class D, class T>
void z_loss_gradient(const D& cuda, const T* z, const T* logsumexp, const T* dloss, T* dz, std::int64_t rows,
                     std::int64_t width, double weight) {
  for_each_row(cuda, rows, ZLossGradient<T>{z, logsumexp, dloss, dz, static_cast<int>(width), static_cast<T>(weight)});
}

template <class D, class T>
void z_loss_squares(const D& cuda, const T* z, const T* logsumexp, double* squares, std::int64_t rows,
                    std::int64_t width, double weight) {
  for_each_row(cuda, rows, ZLossSquares<T>{z, logsumexp, squares, static_cast<int>(width), weight});
}

#define LIMBECK_INSTANTIATE(T)                                                                                       \
  template void count_assignments(const Cuda&, const std::int32_t*, const std::int32_t*, T*, const BalanceShape&);   \
  template void balance_loss(const Cuda&, const T*, const T*, const std::int32_t*, T*, const BalanceShape&, double); \
  template void balance_loss_gradient(const Cuda&, const T*, const std::int32_t*, const T*, T*, const BalanceShape&, \
                                      double);                                                                       \
  template void shared_balance_loss(const Cuda&, const T*, const T*, T*, const BalanceShape&, double);               \
  template void shared_balance_loss_gradient(const Cuda&, const T*, const T*, T*, const BalanceShape&, double);      \
  template void balance_loss_squares(const Cuda&, const T*, const T*, const std::int32_t*, double*,                  \
                                     const BalanceShape&, double);                                                   \
  template void z_loss(const Cuda&, const T*, T*, T*, std::int64_t, std::int64_t, double);                           \
  template void z_loss_gradient(const Cuda&, const T*, const T*, const T*, T*, std::int64_t, std::int64_t, double);  \
  template void z_loss_squares(const Cuda&, const T*, const T*, double*, std::int64_t, std::int64_t, double);
LIMBECK_INSTANTIATE(float)
LIMBECK_INSTANTIATE(double)

}  // namespace limbeck::kernels
