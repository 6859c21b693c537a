#include "kernels/routing.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <span>
#include <vector>

#include "kernels/cpu/parallel_for.h"
#include "kernels/sigmoid.h"

namespace limbeck::kernels {
namespace {

constexpr std::int64_t grain = 128;

/// That divides the weights where they are renormalised: the least that sigmoids may sum to would be 0.
template <class T>
T sum_of_selected(const T* scores, const std::int32_t* chosen, std::int64_t selected) {
  T sum = 0;
  for (std::int64_t k = 0; k < selected; ++k)
    if (chosen[k] >= 0) sum += scores[chosen[k]];
  return sum + T(1e-20);
}

/// Below all others: NaN.
template <class T>
T ordered(T x) {
  return x == x ? x : -std::numeric_limits<T>::infinity();
}

template <class T>
T score_of_group(const T* choice, std::int64_t size, bool best_two) {
  T best = ordered(choice[0]), second = -std::numeric_limits<T>::infinity();
  for (std::int64_t e = 1; e < size; ++e) {
    const T x = ordered(choice[e]);
    second = std::max(second, std::min(x, best));
    best = std::max(best, x);
  }
  return best_two ? best + second : best;
}

/// Whether group g is among the `taken` of the greatest score, the lower of two that tie.
template <class T>
bool is_taken(std::span<const T> score_of, std::size_t g, std::int64_t taken) {
  std::int64_t before = 0;
  for (std::size_t other = 0; other < score_of.size(); ++other)
    before += score_of[other] > score_of[g] || (score_of[other] == score_of[g] && other < g) ? 1 : 0;
  return before < taken;
}

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
void routing_sigmoid(const D& cpu, const T* logits, T* scores, T* probabilities, std::int64_t tokens,
                     std::int64_t experts) {
  parallel_for(cpu, tokens, grain, [=](std::int64_t begin, std::int64_t end) {
    for (std::int64_t t = begin; t < end; ++t) {
      const T* z = logits + t * experts;
      T *s = scores + t * experts, *p = probabilities + t * experts;
      for (std::int64_t e = 0; e < experts; ++e) s[e] = z[e] == z[e] ? sigmoid(z[e]) : z[e];
      const T sum = std::accumulate(s, s + experts, T(0)) + T(1e-20);
      for (std::int64_t e = 0; e < experts; ++e) p[e] = s[e] / sum;
    }
  });
}

template <class D, class T>
void routing_choice(const D& cpu, const T* scores, const T* bias, const RoutingGroups& groups, T* choice,
                    std::int64_t tokens, std::int64_t experts) {
  parallel_for(cpu, tokens, grain, [=](std::int64_t begin, std::int64_t end) {
    const std::int64_t size = experts / groups.groups;
    std::vector<T> score_of(static_cast<std::size_t>(groups.groups));
    for (std::int64_t t = begin; t < end; ++t) {
      const T* s = scores + t * experts;
      T* c = choice + t * experts;
      for (std::int64_t e = 0; e < experts; ++e) c[e] = bias != nullptr ? s[e] + bias[e] : s[e];
      if (groups.taken == groups.groups) continue;
      for (std::int64_t g = 0; g < groups.groups; ++g)
        score_of[static_cast<std::size_t>(g)] = score_of_group(c + g * size, size, groups.best_two);
      for (std::int64_t g = 0; g < groups.groups; ++g)
        if (!is_taken<T>(score_of, static_cast<std::size_t>(g), groups.taken))
          std::fill_n(c + g * size, size, -std::numeric_limits<T>::infinity());
    }
  });
}

template <class D, class T>
void routing_weights(const D& cpu, const T* scores, const std::int32_t* selection, T* weights,
                     const RoutingShape& shape) {
  parallel_for(cpu, shape.tokens, grain, [=](std::int64_t begin, std::int64_t end) {
    for (std::int64_t t = begin; t < end; ++t) {
      const T* s = scores + t * shape.experts;
      const std::int32_t* chosen = selection + t * shape.selected;
      const T factor =
          static_cast<T>(shape.scale) / (shape.renormalise ? sum_of_selected(s, chosen, shape.selected) : 1);
      for (std::int64_t k = 0; k < shape.selected; ++k)
        weights[t * shape.selected + k] = chosen[k] >= 0 ? factor * s[chosen[k]] : T(0);
    }
  });
}

template <class D, class T>
void routing_gradient(const D& cpu, const T* scores, const std::int32_t* selection, const T* dweights,
                      const T* dprobabilities, T* dlogits, const RoutingShape& shape) {
  parallel_for(cpu, shape.tokens, grain, [=](std::int64_t begin, std::int64_t end) {
    const std::int64_t experts = shape.experts;
    for (std::int64_t t = begin; t < end; ++t) {
      const T* s = scores + t * experts;
      const T* dp = dprobabilities + t * experts;
      const std::int32_t* chosen = selection + t * shape.selected;
      const T* dw = dweights + t * shape.selected;
      T* d = dlogits + t * experts;  // holds the gradient of the scores first
      if (shape.is_sigmoid) {
        const T all = std::accumulate(s, s + experts, T(0)) + T(1e-20);
        T dot = 0;
        for (std::int64_t e = 0; e < experts; ++e) dot += dp[e] * s[e] / all;
        for (std::int64_t e = 0; e < experts; ++e) d[e] = (dp[e] - dot) / all;
      } else {
        std::copy_n(dp, experts, d);
      }
      T sum = 1, mean = 0;
      if (shape.renormalise) {
        sum = sum_of_selected(s, chosen, shape.selected);
        for (std::int64_t k = 0; k < shape.selected; ++k)
          if (chosen[k] >= 0) mean += dw[k] * s[chosen[k]] / sum;
      }
      for (std::int64_t k = 0; k < shape.selected; ++k)
        if (chosen[k] >= 0) d[chosen[k]] += static_cast<T>(shape.scale) / sum * (dw[k] - mean);
      if (shape.is_sigmoid) {
        for (std::int64_t e = 0; e < experts; ++e) d[e] *= s[e] * (1 - s[e]);
      } else {
        T dot = 0;
        for (std::int64_t e = 0; e < experts; ++e) dot += d[e] * s[e];
        for (std::int64_t e = 0; e < experts; ++e) d[e] = s[e] * (d[e] - dot);
      }
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

#define LIMBECK_INSTANTIATE(T)                                                                                        \
  template void mixer_weights(const Cpu&, const T*, const std::int32_t*, T*, const MixerShape&);                      \
  template void mixer_gradient(const Cpu&, const T*, const std::int32_t*, const T*, T*, const MixerShape&);           \
  template void routing_sigmoid(const Cpu&, const T*, T*, T*, std::int64_t, std::int64_t);                            \
  template void routing_choice(const Cpu&, const T*, const T*, const RoutingGroups&, T*, std::int64_t, std::int64_t); \
  template void routing_weights(const Cpu&, const T*, const std::int32_t*, T*, const RoutingShape&);                  \
  template void routing_gradient(const Cpu&, const T*, const std::int32_t*, const T*, const T*, T*,                   \
                                 const RoutingShape&);
LIMBECK_INSTANTIATE(float)
LIMBECK_INSTANTIATE(double)

}  // namespace limbeck::kernels
