// The arithmetic of a softmax router: probabilities, weights of the selected experts, and the gradient of both.
//
//     softmax(cpu, logits, probabilities, T, E);                                     // kernels/softmax.h
//     topk(cpu, probabilities, selection, T, E, K);
//     routing_weights(cpu, probabilities, selection, weights, {T, E, K, renormalise, scale});
//
// T is float or double. Derivation: docs/gradients.md.
#pragma once

#include <cstdint>

#include "device_set.h"

namespace limbeck::kernels {

struct RoutingShape {
  std::int64_t tokens, experts, selected;
  bool renormalise;  // a token's weights sum to `scale`
  double scale;
};

/// weights [tokens, selected] = scale * p[selection] (divided by their sum where renormalised).
template <class D, class T>
void routing_weights(const D& device, const T* probabilities, const std::int32_t* selection, T* weights,
                     const RoutingShape& shape);

/// dlogits [tokens, experts] from the gradients of the weights and of the probabilities. Overwrites.
template <class D, class T>
void routing_gradient(const D& device, const T* probabilities, const std::int32_t* selection, const T* dweights,
                      const T* dprobabilities, T* dlogits, const RoutingShape& shape);

/// Of Phi-3.5-MoE's sparse mixer at evaluation (transformers' sparsemixer; Liu et al. 2024, arXiv:2409.12136): the
/// first selected expert s is weighed by a softmax over the experts e that come near it, (z[s] - z[e]) / max(|z[e]|,
/// z[s]) <= threshold; the second likewise, without the first.
struct MixerShape {
  std::int64_t tokens, experts;
  double threshold, scale;  // scale: of the weights
};

/// weights [tokens, 2] from logits [tokens, experts] and selection [tokens, 2].
template <class D, class T>
void mixer_weights(const D& device, const T* logits, const std::int32_t* selection, T* weights,
                   const MixerShape& shape);

/// Adds to dlogits [tokens, experts] what comes of the gradient of the weights; who is near is taken as given.
template <class D, class T>
void mixer_gradient(const D& device, const T* logits, const std::int32_t* selection, const T* dweights, T* dlogits,
                    const MixerShape& shape);

}  // namespace limbeck::kernels
