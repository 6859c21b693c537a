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

}  // namespace limbeck::kernels
