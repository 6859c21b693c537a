// The arithmetic of a router: scores of the experts, those that are chosen, their weights, and the gradient of all.
//
//     softmax(cpu, logits, probabilities, T, E);                                     // kernels/softmax.h
//     topk(cpu, probabilities, selection, T, E, K);                                  // kernels/topk.h
//     routing_weights(cpu, probabilities, selection, weights, {T, E, K, renormalise, scale});
//
//     routing_sigmoid(cpu, logits, scores, probabilities, T, E);                     // DeepSeek-V3
//     routing_choice(cpu, scores, bias, {groups, 4, /*best_two=*/true}, choice, T, E);
//     topk(cpu, choice, selection, T, E, K);
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
  bool is_sigmoid = false;  // scores are routing_sigmoid's; else probabilities are the scores
};

/// Groups of experts of equal size, in the experts' order.
struct RoutingGroups {
  std::int64_t groups = 1;  // divides the experts
  std::int64_t taken = 1;   // of a token
  bool best_two = false;    // a group's score is the sum of its best two (it has two or more); else its best
};

/// scores [tokens, experts] = sigmoid(logits), and probabilities = scores over the sum of a token's.
template <class D, class T>
void routing_sigmoid(const D& device, const T* logits, T* scores, T* probabilities, std::int64_t tokens,
                     std::int64_t experts);

/// choice [tokens, experts] = scores + bias where the expert's group is among the `taken` best of that sum (ties to the
/// lower group; NaN counts as the smallest), and -infinity elsewhere. bias [experts] or null: 0.
template <class D, class T>
void routing_choice(const D& device, const T* scores, const T* bias, const RoutingGroups& groups, T* choice,
                    std::int64_t tokens, std::int64_t experts);

/// weights [tokens, selected] = scale * scores[selection] (divided by their sum + 1e-20 where renormalised); 0 where
/// the selection is -1, here and in the gradient.
template <class D, class T>
void routing_weights(const D& device, const T* scores, const std::int32_t* selection, T* weights,
                     const RoutingShape& shape);

/// dlogits [tokens, experts] from the gradients of the weights and of the probabilities. Overwrites.
template <class D, class T>
void routing_gradient(const D& device, const T* scores, const std::int32_t* selection, const T* dweights,
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
