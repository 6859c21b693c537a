#include "kernels/match_routing.h"

#include "kernels/cuda/sequences.cuh"
#include "kernels/cuda/warp_rows.cuh"

namespace limbeck::kernels {
namespace {

/// A block to a sequence, whose loads [experts] it has in shared memory.
__global__ void load_weights_kernel(const std::int32_t* selection, Sequences sequences, double* weights,
                                    BalanceShape shape) {
  auto* load = gpu::dynamic_shared<std::int32_t>();
  for (std::int64_t s = blockIdx.x; s < *sequences.count; s += gridDim.x) {
    const std::int64_t begin = sequences.begin(s), end = sequences.end(s);
    for (std::int64_t e = threadIdx.x; e < shape.experts; e += blockDim.x) load[e] = 0;
    __syncthreads();
    for (std::int64_t a = begin * shape.selected + threadIdx.x; a < end * shape.selected; a += blockDim.x)
      atomicAdd(&load[selection[a]], 1);
    __syncthreads();
    double used = 0;
    for (std::int64_t e = threadIdx.x; e < shape.experts; e += blockDim.x) used += load[e] > 0 ? 1 : 0;
    used = block_sum(used);
    const double factor = static_cast<double>(end - begin) / used;
    for (std::int64_t t = begin + threadIdx.x; t < end; t += blockDim.x) {
      double sum = 0;
      for (std::int64_t k = 0; k < shape.selected; ++k)
        sum += 1 / static_cast<double>(load[selection[t * shape.selected + k]]);
      weights[t] = factor * sum;
    }
    __syncthreads();
  }
}

template <class T>
struct Distance {
  const T* q;
  const T* p;
  const std::int32_t* targets;
  const double* token_weights;
  TokenWeight weight;
  double* distance;
  std::int64_t experts;
  __device__ void run(std::int64_t t, int lane) const {
    double kl = 0;
    if (targets[t] >= 0)
      for (std::int64_t i = t * experts + lane; i < (t + 1) * experts; i += warp_size) kl += routing_term(p[i], q[i]);
    kl = warp_sum(kl);
    if (lane == 0) distance[t] = weight.get() * (token_weights != nullptr ? token_weights[t] : 1) * kl;
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
void load_weights(const D& cuda, const std::int32_t* selection, const std::int32_t* sequence, double* weights,
                  const BalanceShape& shape) {
  if (shape.tokens == 0) return;
  Scratch scratch(cuda);
  const Sequences sequences = find_sequences(cuda, scratch, sequence, shape.tokens);
  gpu::launch(cuda, load_weights_kernel, blocks_for(cuda, shape.tokens), dim3(usual_threads),
              static_cast<std::size_t>(shape.experts) * sizeof(std::int32_t), selection, sequences, weights, shape);
}

template <class D, class T>
void routing_distance(const D& cuda, const T* q, const T* p, const std::int32_t* targets, const double* token_weights,
                      TokenWeight weight, double* distance, std::int64_t rows, std::int64_t experts) {
  for_each_row(cuda, rows, Distance<T>{q, p, targets, token_weights, weight, distance, experts});
}

template <class D, class T>
void routing_distance_gradient(const D& cuda, const T* q, const T* p, const std::int32_t* targets,
                               const double* token_weights, TokenWeight weight, const T* dloss, T* dq,
                               std::int64_t rows, std::int64_t experts) {
  for_each_row(cuda, rows, DistanceGradient<T>{q, p, targets, token_weights, weight, dloss, dq, experts});
}

#define LIMBECK_INSTANTIATE(T)                                                                                     \
  template void routing_distance(const Cuda&, const T*, const T*, const std::int32_t*, const double*, TokenWeight, \
                                 double*, std::int64_t, std::int64_t);                                             \
  template void routing_distance_gradient(const Cuda&, const T*, const T*, const std::int32_t*, const double*,     \
                                          TokenWeight, const T*, T*, std::int64_t, std::int64_t);
LIMBECK_INSTANTIATE(float)
LIMBECK_INSTANTIATE(double)

template void load_weights(const Cuda&, const std::int32_t*, const std::int32_t*, double*, const BalanceShape&);

}  // namespace limbeck::kernels
