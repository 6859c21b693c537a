#include "kernels/match_routing.h"

#include "kernels/cuda/elementwise.cuh"
#include "kernels/cuda/scratch.h"
#include "kernels/cuda/warp_rows.cuh"

namespace limbeck::kernels {
namespace {

/// factors[s] = the sequence's tokens / the experts that it uses.
struct FactorOfSequence {
  const double* counts;
  double* factors;
  std::int64_t experts, selected;
  __device__ void run(std::int64_t s, int lane) const {
    double all = 0, used = 0;
    for (std::int64_t e = lane; e < experts; e += warp_size) {
      const double load = counts[s * experts + e];
      all += load;
      used += load > 0 ? 1 : 0;
    }
    all = warp_sum(all);
    used = warp_sum(used);
    if (lane == 0) factors[s] = all / static_cast<double>(selected) / used;
  }
};

struct LoadWeight {
  const std::int32_t* selection;
  const double* counts;
  const std::int32_t* sequence;
  const double* factors;
  double* weights;
  std::int64_t experts, selected;
  template <int N>
  __device__ void run(std::int64_t t) const {
    const std::int64_t of = sequence[t];
    double sum = 0;
    for (std::int64_t k = 0; k < selected; ++k) sum += 1 / counts[of * experts + selection[t * selected + k]];
    weights[t] = factors[of] * sum;
  }
};

template <class T>
struct Distance {
  const T* q;
  const T* p;
  const std::int32_t* targets;
  const double* token_weights;
  TokenWeight weight;
  double* distance;
  double* squares;
  std::int64_t experts;
  __device__ void run(std::int64_t t, int lane) const {
    double kl = 0, square = 0;
    if (targets[t] >= 0)
      for (std::int64_t i = t * experts + lane; i < (t + 1) * experts; i += warp_size) {
        kl += routing_term(p[i], q[i]);
        square += routing_square(p[i], q[i]);
      }
    kl = warp_sum(kl);
    square = warp_sum(square);
    if (lane != 0) return;
    const double of_row = weight.get() * (token_weights != nullptr ? token_weights[t] : 1);
    distance[t] = of_row * kl;
    squares[t] = of_row * of_row * square;
  }
};

template <class T>
struct DistanceGradient {
  const T* q;
  const T* p;
  const std::int32_t* targets;
  const double* token_weights;
  TokenWeight weight;
  const T* dloss;
  T* dq;
  std::int64_t experts;
  __device__ void run(std::int64_t t, int lane) const {
    double of_row = 0;
    if (targets[t] >= 0)
      of_row = weight.get() * static_cast<double>(*dloss) * (token_weights != nullptr ? token_weights[t] : 1);
    for (std::int64_t i = t * experts + lane; i < (t + 1) * experts; i += warp_size)
      dq[i] = static_cast<T>(-of_row * static_cast<double>(p[i]) / static_cast<double>(positive(q[i])));
  }
};

}  // namespace

template <class D>
void load_weights(const D& cuda, const std::int32_t* selection, const double* counts, const std::int32_t* sequence,
                  double* weights, const BalanceShape& shape) {
  auto* factors = Scratch(cuda).take<double>(shape.sequences);
  for_each_row(cuda, shape.sequences, FactorOfSequence{counts, factors, shape.experts, shape.selected});
  for_each_vector<1>(cuda, shape.tokens,
                     LoadWeight{selection, counts, sequence, factors, weights, shape.experts, shape.selected});
}

template <class D, class T>
void routing_distance(const D& cuda, const T* q, const T* p, const std::int32_t* targets, const double* token_weights,
                      TokenWeight weight, double* distance, double* squares, std::int64_t rows, std::int64_t experts) {
  for_each_row(cuda, rows, Distance<T>{q, p, targets, token_weights, weight, distance, squares, experts});
}

template <class D, class T>
void routing_distance_gradient(const D& cuda, const T* q, const T* p, const std::int32_t* targets,
                               const double* token_weights, TokenWeight weight, const T* dloss, T* dq,
                               std::int64_t rows, std::int64_t experts) {
  for_each_row(cuda, rows, DistanceGradient<T>{q, p, targets, token_weights, weight, dloss, dq, experts});
}

#define LIMBECK_INSTANTIATE(T)                                                                                     \
  template void routing_distance(const Cuda&, const T*, const T*, const std::int32_t*, const double*, TokenWeight, \
                                 double*, double*, std::int64_t, std::int64_t);                                    \
  template void routing_distance_gradient(const Cuda&, const T*, const T*, const std::int32_t*, const double*,     \
                                          TokenWeight, const T*, T*, std::int64_t, std::int64_t);
LIMBECK_INSTANTIATE(float)
LIMBECK_INSTANTIATE(double)

template void load_weights(const Cuda&, const std::int32_t*, const double*, const std::int32_t*, double*,
                           const BalanceShape&);

}  // namespace limbeck::kernels
