#include "kernels/routing.h"

#include <limits>

#include "kernels/cuda/warp_rows.cuh"

namespace limbeck::kernels {
namespace {

/// The sum of a token's selected scores, in the order of the selection.
template <class T>
__device__ T selected_sum(const T* scores, const std::int32_t* chosen, std::int64_t selected) {
  T sum = 0;
  for (std::int64_t k = 0; k < selected; ++k)
    if (chosen[k] >= 0) sum += scores[chosen[k]];
  return sum + T(1e-20);
}

template <class T>
__device__ T lane_sum(const T* x, std::int64_t count, int lane) {
  T sum = 0;
  for (std::int64_t e = lane; e < count; e += warp_size) sum += x[e];
  return warp_sum(sum);
}

template <class T>
struct Sigmoid {
  const T* logits;
  T* scores;
  T* probabilities;
  std::int64_t experts;
  __device__ void run(std::int64_t t, int lane) const {
    T sum = 0;
    for (std::int64_t e = lane; e < experts; e += warp_size) {
      const T s = 1 / (1 + std::exp(-logits[t * experts + e]));
      scores[t * experts + e] = s;
      sum += s;
    }
    sum = warp_sum(sum) + T(1e-20);
    for (std::int64_t e = lane; e < experts; e += warp_size)
      probabilities[t * experts + e] = scores[t * experts + e] / sum;
  }
};

/// A lane has the groups of its number, of that plus 32, and so on.
template <class T>
struct Choice {
  const T* scores;
  const T* bias;
  RoutingGroups of;
  T* choice;
  std::int64_t experts;

  __device__ T at(std::int64_t t, std::int64_t e) const {
    const T x = scores[t * experts + e];
    return bias != nullptr ? x + bias[e] : x;
  }
  __device__ T score_of_group(std::int64_t t, std::int64_t g) const {
    constexpr T least = -std::numeric_limits<T>::infinity();
    const std::int64_t size = experts / of.groups;
    T best = least, second = least;
    for (std::int64_t e = g * size; e < (g + 1) * size; ++e) {
      const T given = at(t, e), x = given == given ? given : least;
      if (x > best) {
        second = best;
        best = x;
      } else if (x > second) {
        second = x;
      }
    }
    return of.best_two ? best + second : best;
  }
  __device__ bool is_taken(std::int64_t t, std::int64_t g) const {
    const T own = score_of_group(t, g);
    std::int64_t before = 0;
    for (std::int64_t other = 0; other < of.groups; ++other) {
      const T score = score_of_group(t, other);
      before += score > own || (score == own && other < g) ? 1 : 0;
    }
    return before < of.taken;
  }
  __device__ void run(std::int64_t t, int lane) const {
    const std::int64_t size = experts / of.groups;
    for (std::int64_t g = lane; g < of.groups; g += warp_size) {
      const bool taken = of.taken == of.groups || is_taken(t, g);
      for (std::int64_t e = g * size; e < (g + 1) * size; ++e)
        choice[t * experts + e] = taken ? at(t, e) : -std::numeric_limits<T>::infinity();
    }
  }
};

template <class T>
struct Weights {
  const T* scores;
  const std::int32_t* selection;
  T* weights;
  RoutingShape shape;
  __device__ void run(std::int64_t t, int lane) const {
    const T* s = scores + t * shape.experts;
    const std::int32_t* chosen = selection + t * shape.selected;
    const T sum = shape.renormalise ? selected_sum(s, chosen, shape.selected) : T{1};
    const T factor = static_cast<T>(shape.scale) / sum;
    for (std::int64_t k = lane; k < shape.selected; k += warp_size)
      weights[t * shape.selected + k] = chosen[k] >= 0 ? factor * s[chosen[k]] : T{0};
  }
};

template <class T>
struct Gradient {
  const T* scores;
  const std::int32_t* selection;
  const T* dweights;
  const T* dprobabilities;
  T* dlogits;
  RoutingShape shape;
  __device__ void run(std::int64_t t, int lane) const {
    const std::int64_t experts = shape.experts;
    const T* s = scores + t * experts;
    const T* dp = dprobabilities + t * experts;
    const std::int32_t* chosen = selection + t * shape.selected;
    const T* dw = dweights + t * shape.selected;
    T sum = 1, mean = 0;
    if (shape.renormalise) {
      sum = selected_sum(s, chosen, shape.selected);
      for (std::int64_t k = 0; k < shape.selected; ++k)
        if (chosen[k] >= 0) mean += dw[k] * s[chosen[k]] / sum;
    }
    const T factor = static_cast<T>(shape.scale) / sum;
    // Of scores that probabilities are shares of.
    T all = 1, share = 0;
    if (shape.is_sigmoid) {
      all = lane_sum(s, experts, lane) + T(1e-20);
      for (std::int64_t e = lane; e < experts; e += warp_size) share += dp[e] * s[e] / all;
      share = warp_sum(share);
    }
    const auto dscore = [&](std::int64_t e) {
      T d = (dp[e] - share) / all;
      for (std::int64_t k = 0; k < shape.selected; ++k)
        if (chosen[k] == e) d += factor * (dw[k] - mean);
      return d;
    };
    T dot = 0;
    if (!shape.is_sigmoid) {
      for (std::int64_t e = lane; e < experts; e += warp_size) dot += dscore(e) * s[e];
      dot = warp_sum(dot);
    }
    for (std::int64_t e = lane; e < experts; e += warp_size)
      dlogits[t * experts + e] = s[e] * (shape.is_sigmoid ? dscore(e) * (1 - s[e]) : dscore(e) - dot);
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
void routing_sigmoid(const D& cuda, const T* logits, T* scores, T* probabilities, std::int64_t tokens,
                     std::int64_t experts) {
  for_each_row(cuda, tokens, Sigmoid<T>{logits, scores, probabilities, experts});
}

template <class D, class T>
void routing_choice(const D& cuda, const T* scores, const T* bias, const RoutingGroups& groups, T* choice,
                    std::int64_t tokens, std::int64_t experts) {
  for_each_row(cuda, tokens, Choice<T>{scores, bias, groups, choice, experts});
}

template <class D, class T>
void routing_weights(const D& cuda, const T* scores, const std::int32_t* selection, T* weights,
                     const RoutingShape& shape) {
  for_each_row(cuda, shape.tokens, Weights<T>{scores, selection, weights, shape});
}

template <class D, class T>
void routing_gradient(const D& cuda, const T* scores, const std::int32_t* selection, const T* dweights,
                      const T* dprobabilities, T* dlogits, const RoutingShape& shape) {
  for_each_row(cuda, shape.tokens, Gradient<T>{scores, selection, dweights, dprobabilities, dlogits, shape});
}

#define LIMBECK_INSTANTIATE(T)                                                                                         \
  template void mixer_weights(const Cuda&, const T*, const std::int32_t*, T*, const MixerShape&);                      \
  template void mixer_gradient(const Cuda&, const T*, const std::int32_t*, const T*, T*, const MixerShape&);           \
  template void routing_sigmoid(const Cuda&, const T*, T*, T*, std::int64_t, std::int64_t);                            \
  template void routing_choice(const Cuda&, const T*, const T*, const RoutingGroups&, T*, std::int64_t, std::int64_t); \
  template void routing_weights(const Cuda&, const T*, const std::int32_t*, T*, const RoutingShape&);                  \
  template void routing_gradient(const Cuda&, const T*, const std::int32_t*, const T*, const T*, T*,                   \
                                 const RoutingShape&);
LIMBECK_INSTANTIATE(float)
LIMBECK_INSTANTIATE(double)

}  // namespace limbeck::kernels
