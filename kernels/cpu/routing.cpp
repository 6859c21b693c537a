#include "kernels/routing.h"

#include <algorithm>

#include "kernels/cpu/parallel_for.h"

namespace limbeck::kernels {
namespace {

constexpr std::int64_t grain = 128;

}  // namespace

template <class D, class T>
void routing_weights(const D& cpu, const T* probabilities, const std::int32_t* selection, T* weights,
                     const RoutingShape& shape) {
  parallel_for(cpu, shape.tokens, grain, [=](std::int64_t begin, std::int64_t end) {
    for (std::int64_t t = begin; t < end; ++t) {
      const T* p = probabilities + t * shape.experts;
      const std::int32_t* chosen = selection + t * shape.selected;
      T sum = 0;
      for (std::int64_t k = 0; k < shape.selected; ++k) sum += p[chosen[k]];
      const T factor = static_cast<T>(shape.scale) / (shape.renormalise ? sum : 1);
      for (std::int64_t k = 0; k < shape.selected; ++k) weights[t * shape.selected + k] = factor * p[chosen[k]];
    }
  });
}

template <class D, class T>
void routing_gradient(const D& cpu, const T* probabilities, const std::int32_t* selection, const T* dweights,
                      const T* dprobabilities, T* dlogits, const RoutingShape& shape) {
  parallel_for(cpu, shape.tokens, grain, [=](std::int64_t begin, std::int64_t end) {
    for (std::int64_t t = begin; t < end; ++t) {
      const T* p = probabilities + t * shape.experts;
      const std::int32_t* chosen = selection + t * shape.selected;
      const T* dw = dweights + t * shape.selected;
      T* d = dlogits + t * shape.experts;  // holds dp first
      std::copy_n(dprobabilities + t * shape.experts, shape.experts, d);
      T sum = 1, mean = 0;
      if (shape.renormalise) {
        sum = 0;
        for (std::int64_t k = 0; k < shape.selected; ++k) sum += p[chosen[k]];
        for (std::int64_t k = 0; k < shape.selected; ++k) mean += dw[k] * p[chosen[k]] / sum;
      }
      for (std::int64_t k = 0; k < shape.selected; ++k)
        d[chosen[k]] += static_cast<T>(shape.scale) / sum * (dw[k] - mean);
      T dot = 0;
      for (std::int64_t e = 0; e < shape.experts; ++e) dot += d[e] * p[e];
      for (std::int64_t e = 0; e < shape.experts; ++e) d[e] = p[e] * (d[e] - dot);
    }
  });
}

#define LIMBECK_INSTANTIATE(T)                                                                       \
  template void routing_weights(const Cpu&, const T*, const std::int32_t*, T*, const RoutingShape&); \
  template void routing_gradient(const Cpu&, const T*, const std::int32_t*, const T*, const T*, T*,  \
                                 const RoutingShape&);
LIMBECK_INSTANTIATE(float)
LIMBECK_INSTANTIATE(double)

}  // namespace limbeck::kernels
