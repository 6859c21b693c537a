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

}  // namespace

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

#define LIMBECK_INSTANTIATE(T)                                                                        \
  template void routing_weights(const Cuda&, const T*, const std::int32_t*, T*, const RoutingShape&); \
  template void routing_gradient(const Cuda&, const T*, const std::int32_t*, const T*, const T*, T*,  \
                                 const RoutingShape&);
LIMBECK_INSTANTIATE(float)
LIMBECK_INSTANTIATE(double)

}  // namespace limbeck::kernels
