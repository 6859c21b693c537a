#include "kernels/routing.h"

#include "kernels/cuda/warp_rows.cuh"

namespace limbeck::kernels {
namespace {

/// The sum of a token's selected probabilities, in the order of the selection.
template <class T>
__device__ T selected_sum(const T* p, const std::int32_t* chosen, std::int64_t selected) {
  T sum = 0;
  for (std::int64_t k = 0; k < selected; ++k) sum += p[chosen[k]];
  return sum;
}

template <class T>
struct Weights {
  const T* probabilities;
  const std::int32_t* selection;
  T* weights;
  RoutingShape shape;
  __device__ void run(std::int64_t t, int lane) const {
    const T* p = probabilities + t * shape.experts;
    const std::int32_t* chosen = selection + t * shape.selected;
    const T sum = shape.renormalise ? selected_sum(p, chosen, shape.selected) : T{1};
    const T factor = static_cast<T>(shape.scale) / sum;
    for (std::int64_t k = lane; k < shape.selected; k += warp_size)
      weights[t * shape.selected + k] = factor * p[chosen[k]];
  }
};

template <class T>
struct Gradient {
  const T* probabilities;
  const std::int32_t* selection;
  const T* dweights;
  const T* dprobabilities;
  T* dlogits;
  RoutingShape shape;
  __device__ void run(std::int64_t t, int lane) const {
    const T* p = probabilities + t * shape.experts;
    const std::int32_t* chosen = selection + t * shape.selected;
    const T* dw = dweights + t * shape.selected;
    T sum = 1, mean = 0;
    if (shape.renormalise) {
      sum = selected_sum(p, chosen, shape.selected);
      for (std::int64_t k = 0; k < shape.selected; ++k) mean += dw[k] * p[chosen[k]] / sum;
    }
    const T factor = static_cast<T>(shape.scale) / sum;
    const auto dp = [&](std::int64_t e) {
      T d = dprobabilities[t * shape.experts + e];
      for (std::int64_t k = 0; k < shape.selected; ++k)
        if (chosen[k] == e) d += factor * (dw[k] - mean);
      return d;
    };
    T dot = 0;
    for (std::int64_t e = lane; e < shape.experts; e += warp_size) dot += dp(e) * p[e];
    dot = warp_sum(dot);
    for (std::int64_t e = lane; e < shape.experts; e += warp_size)
      dlogits[t * shape.experts + e] = p[e] * (dp(e) - dot);
  }
};

/// A token's choice k of the mixer: the softmax over its near rivals, on all lanes alike.
template <class T>
struct Rivals {
  const T* z;
  std::int32_t selected, left_out;
  T best, threshold, greatest, sum;

  __device__ Rivals(const T* logits, const std::int32_t* chosen, int k, const MixerShape& shape, int lane)
      : z(logits),
        selected(chosen[k]),
        left_out(k > 0 ? chosen[0] : -1),
        best(logits[chosen[k]]),
        threshold(static_cast<T>(shape.threshold)),
        greatest(best),
        sum(0) {
    for (std::int64_t e = lane; e < shape.experts; e += warp_size)
      if (has(e) && z[e] > greatest) greatest = z[e];
    greatest = warp_reduce(greatest, Larger{});
    for (std::int64_t e = lane; e < shape.experts; e += warp_size)
      if (has(e)) sum += std::exp(z[e] - greatest);
    sum = warp_sum(sum);
  }
  __device__ bool has(std::int64_t e) const {
    const T size = std::abs(z[e]);
    return e != left_out && !((best - z[e]) / (size < best ? best : size) > threshold);
  }
  __device__ T probability(std::int64_t e) const { return has(e) ? std::exp(z[e] - greatest) / sum : T{0}; }
};

template <class T>
struct MixerWeights {
  const T* logits;
  const std::int32_t* selection;
  T* weights;
  MixerShape shape;
  __device__ void run(std::int64_t t, int lane) const {
    for (int k = 0; k < 2; ++k) {
      const Rivals<T> rivals(logits + t * shape.experts, selection + 2 * t, k, shape, lane);
      if (lane == k) weights[2 * t + k] = static_cast<T>(shape.scale) * rivals.probability(rivals.selected);
    }
  }
};

template <class T>
struct MixerGradient {
  const T* logits;
  const std::int32_t* selection;
  const T* dweights;
  T* dlogits;
  MixerShape shape;
  __device__ void run(std::int64_t t, int lane) const {
    for (int k = 0; k < 2; ++k) {
      const Rivals<T> rivals(logits + t * shape.experts, selection + 2 * t, k, shape, lane);
      const T dw = static_cast<T>(shape.scale) * dweights[2 * t + k] * rivals.probability(rivals.selected);
      for (std::int64_t e = lane; e < shape.experts; e += warp_size)
        dlogits[t * shape.experts + e] += dw * ((e == rivals.selected ? T{1} : T{0}) - rivals.probability(e));
    }
  }
};

}  // namespace

template <class D, class T>
void mixer_weights(const D& cuda, const T* logits, const std::int32_t* selection, T* weights, const MixerShape& shape) {
  for_each_row(cuda, shape.tokens, MixerWeights<T>{logits, selection, weights, shape});
}

template <class D, class T>
void mixer_gradient(const D& cuda, const T* logits, const std::int32_t* selection, const T* dweights, T* dlogits,
                    const MixerShape& shape) {
  for_each_row(cuda, shape.tokens, MixerGradient<T>{logits, selection, dweights, dlogits, shape});
}

template <class D, class T>
void routing_weights(const D& cuda, const T* probabilities, const std::int32_t* selection, T* weights,
                     const RoutingShape& shape) {
  for_each_row(cuda, shape.tokens, Weights<T>{probabilities, selection, weights, shape});
}

template <class D, class T>
void routing_gradient(const D& cuda, const T* probabilities, const std::int32_t* selection, const T* dweights,
                      const T* dprobabilities, T* dlogits, const RoutingShape& shape) {
  for_each_row(cuda, shape.tokens, Gradient<T>{probabilities, selection, dweights, dprobabilities, dlogits, shape});
}

#define LIMBECK_INSTANTIATE(T)                                                                               \
  template void mixer_weights(const Cuda&, const T*, const std::int32_t*, T*, const MixerShape&);            \
  template void mixer_gradient(const Cuda&, const T*, const std::int32_t*, const T*, T*, const MixerShape&); \
  template void routing_weights(const Cuda&, const T*, const std::int32_t*, T*, const RoutingShape&);        \
  template void routing_gradient(const Cuda&, const T*, const std::int32_t*, const T*, const T*, T*,         \
                                 const RoutingShape&);
LIMBECK_INSTANTIATE(float)
LIMBECK_INSTANTIATE(double)

}  // namespace limbeck::kernels
