#include "kernels/routing.h"

#include <algorithm>
#include <cmath>

#include "kernels/cpu/parallel_for.h"

namespace limbeck::kernels {
namespace {

constexpr std::int64_t grain = 128;

/// A token's choice k of the mixer: the softmax over its near rivals.
template <class T>
struct Rivals {
  const T* z;
  std::int32_t selected, left_out;  // left_out: chosen before, or -1
  T threshold;
  T greatest = 0, sum = 0;

  Rivals(const T* logits, const std::int32_t* chosen, std::int64_t k, const MixerShape& shape)
      : z(logits), selected(chosen[k]), left_out(k > 0 ? chosen[0] : -1), threshold(static_cast<T>(shape.threshold)) {
    greatest = z[selected];
    for (std::int64_t e = 0; e < shape.experts; ++e)
      if (has(e)) greatest = std::max(greatest, z[e]);
    for (std::int64_t e = 0; e < shape.experts; ++e)
      if (has(e)) sum += std::exp(z[e] - greatest);
  }
  bool has(std::int64_t e) const {
    const T best = z[selected];
    return e != left_out && !((best - z[e]) / std::max(std::abs(z[e]), best) > threshold);
  }
  T probability(std::int64_t e) const { return has(e) ? std::exp(z[e] - greatest) / sum : T{0}; }
};

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

template <class D, class T>
void mixer_weights(const D& cpu, const T* logits, const std::int32_t* selection, T* weights, const MixerShape& shape) {
  parallel_for(cpu, shape.tokens, grain, [=](std::int64_t begin, std::int64_t end) {
    for (std::int64_t t = begin; t < end; ++t)
      for (std::int64_t k = 0; k < 2; ++k) {
        const Rivals<T> rivals(logits + t * shape.experts, selection + 2 * t, k, shape);
        weights[2 * t + k] = static_cast<T>(shape.scale) * rivals.probability(rivals.selected);
      }
  });
}

template <class D, class T>
void mixer_gradient(const D& cpu, const T* logits, const std::int32_t* selection, const T* dweights, T* dlogits,
                    const MixerShape& shape) {
  parallel_for(cpu, shape.tokens, grain, [=](std::int64_t begin, std::int64_t end) {
    for (std::int64_t t = begin; t < end; ++t)
      for (std::int64_t k = 0; k < 2; ++k) {
        const Rivals<T> rivals(logits + t * shape.experts, selection + 2 * t, k, shape);
        const T dw = static_cast<T>(shape.scale) * dweights[2 * t + k] * rivals.probability(rivals.selected);
        T* d = dlogits + t * shape.experts;
        for (std::int64_t e = 0; e < shape.experts; ++e)
          d[e] += dw * ((e == rivals.selected ? T{1} : T{0}) - rivals.probability(e));
      }
  });
}

#define LIMBECK_INSTANTIATE(T)                                                                              \
  template void mixer_weights(const Cpu&, const T*, const std::int32_t*, T*, const MixerShape&);            \
  template void mixer_gradient(const Cpu&, const T*, const std::int32_t*, const T*, T*, const MixerShape&); \
  template void routing_weights(const Cpu&, const T*, const std::int32_t*, T*, const RoutingShape&);        \
  template void routing_gradient(const Cpu&, const T*, const std::int32_t*, const T*, const T*, T*,         \
                                 const RoutingShape&);
LIMBECK_INSTANTIATE(float)
LIMBECK_INSTANTIATE(double)

}  // namespace limbeck::kernels
