#include "kernels/reward.h"

#include "kernels/cuda/elementwise.cuh"
#include "kernels/cuda/reduce.cuh"
#include "kernels/cuda/vector.cuh"

namespace limbeck::kernels {
namespace {

/// A block to a response.
template <class X>
__global__ void response_rewards_kernel(const X* x, const Acc<X>* weight, const std::int32_t* document,
                                        const std::int64_t* offsets, std::int64_t* last, double* rewards,
                                        std::int64_t responses, std::int64_t width) {
  for (std::int64_t i = blockIdx.x; i < responses; i += gridDim.x) {
    std::int64_t end = -1;
    for (std::int64_t t = offsets[i / 2] + threadIdx.x; t < offsets[i / 2 + 1]; t += blockDim.x)
      if (document[t] == i % 2) end = t;
    end = block_reduce(end, std::int64_t{-1}, Larger{});
    double sum = 0;
    for (std::int64_t c = threadIdx.x; c < width && end >= 0; c += blockDim.x)
      sum += static_cast<double>(as<Acc<X>>(x[end * width + c])) * static_cast<double>(weight[c]);
    sum = block_sum(sum);
    if (threadIdx.x > 0) continue;
    last[i] = end;
    rewards[i] = sum;
  }
}

struct RewardPairs {
  const double* rewards;
  double center;
  const double* scale;
  double *losses, *slopes, *of_pairs;
  template <int N>
  __device__ void run(std::int64_t i) const {
    double* row = of_pairs + i * num_preference_columns;
    reward_row(rewards[2 * i], rewards[2 * i + 1], center, *scale, slopes + 2 * i, row);
    losses[i] = *scale * row[PreferenceLoss];
  }
};

/// Of place c of response i, i width + c.
template <class X>
struct RewardInputGradient {
  const Acc<X>* weight;
  const std::int64_t* last;
  const double* slopes;
  const Acc<X>* dloss;
  X* dx;
  std::int64_t width;
  template <int N>
  __device__ void run(std::int64_t place) const {
    const std::int64_t i = place / width, c = place % width;
    if (last[i] < 0) return;
    const double factor = slopes[i] * static_cast<double>(*dloss);
    dx[last[i] * width + c] = rounded<X>(static_cast<Acc<X>>(factor * static_cast<double>(weight[c])));
  }
};

/// Of column c, over the responses in their order.
template <class X>
struct RewardWeightGradient {
  const X* x;
  const std::int64_t* last;
  const double* slopes;
  const Acc<X>* dloss;
  bool add;
  Acc<X>* dweight;
  std::int64_t n, width;
  template <int N>
  __device__ void run(std::int64_t c) const {
    double sum = 0;
    for (std::int64_t i = 0; i < 2 * n; ++i)
      if (last[i] >= 0) sum += slopes[i] * static_cast<double>(as<Acc<X>>(x[last[i] * width + c]));
    sum *= static_cast<double>(*dloss);
    dweight[c] = static_cast<Acc<X>>(add ? static_cast<double>(dweight[c]) + sum : sum);
  }
};

}  // namespace

template <class D, class X>
void response_rewards(const D& cuda, const X* x, const Acc<X>* weight, const std::int32_t* document,
                      const std::int64_t* offsets, std::int64_t* last, double* rewards, std::int64_t n,
                      std::int64_t width) {
  if (n == 0) return;
  gpu::launch(cuda, response_rewards_kernel<X>, blocks_for(cuda, 2 * n), dim3(usual_threads), 0, x, weight, document,
              offsets, last, rewards, 2 * n, width);
}

template <class D>
void reward_pairs(const D& cuda, const double* rewards, std::int64_t n, double center, const double* scale,
                  double* losses, double* slopes, double* of_pairs) {
  for_each_vector<1>(cuda, n, RewardPairs{rewards, center, scale, losses, slopes, of_pairs}, rewards);
}

template <class D, class X>
void reward_input_gradient(const D& cuda, const Acc<X>* weight, const std::int64_t* last, const double* slopes,
                           const Acc<X>* dloss, X* dx, std::int64_t n, std::int64_t width) {
  for_each_vector<1>(cuda, 2 * n * width, RewardInputGradient<X>{weight, last, slopes, dloss, dx, width}, dx);
}

template <class D, class X>
void reward_weight_gradient(const D& cuda, const X* x, const std::int64_t* last, const double* slopes,
                            const Acc<X>* dloss, bool add, Acc<X>* dweight, std::int64_t n, std::int64_t width) {
  for_each_vector<1>(cuda, width, RewardWeightGradient<X>{x, last, slopes, dloss, add, dweight, n, width}, dweight);
}

template void reward_pairs(const Cuda&, const double*, std::int64_t, double, const double*, double*, double*, double*);
#define LIMBECK_INSTANTIATE(X)                                                                                         \
  template void response_rewards(const Cuda&, const X*, const Acc<X>*, const std::int32_t*, const std::int64_t*,       \
                                 std::int64_t*, double*, std::int64_t, std::int64_t);                                  \
  template void reward_input_gradient(const Cuda&, const Acc<X>*, const std::int64_t*, const double*, const Acc<X>*,   \
                                      X*, std::int64_t, std::int64_t);                                                 \
  template void reward_weight_gradient(const Cuda&, const X*, const std::int64_t*, const double*, const Acc<X>*, bool, \
                                       Acc<X>*, std::int64_t, std::int64_t);
LIMBECK_INSTANTIATE(float)
LIMBECK_INSTANTIATE(double)
LIMBECK_INSTANTIATE(bf16)

}  // namespace limbeck::kernels
