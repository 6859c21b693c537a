// The softmax router of Mixtral, Qwen3-MoE and OLMoE: probabilities over the experts, the K largest, their weights; and
// the sparse mixer of Phi-3.5-MoE.
//
//     Var logits = linear(tape, x, router_weight);                                             // [T,E]
//     Routing r = route(tape, logits, 4, /*renormalise=*/true, /*weight_scale=*/1.0, replay);
//
// A replay takes another run's selection in the place of the top K, so that recomputed blocks and compared layouts
// cannot flip at near ties; weights and gradients follow from this run's logits.
#pragma once

#include "core/tape.h"

namespace limbeck::core {

struct Routing {
  Tensor selection;   // [T,K] int32, by falling probability, ties to the lower index
  Var weights;        // [T,K]
  Var probabilities;  // [T,E]
};

/// weights = weight_scale * probabilities[selection], divided by their sum where `renormalise`. float32 or float64.
/// `replay` [T,K] int32 or null. Logits that are not finite give probabilities that are not, and a valid selection.
Routing route(Tape& tape, const Var& logits /*[T,E]*/, std::int64_t experts_per_token, bool renormalise,
              double weight_scale, const Tensor* replay = nullptr);

/// Phi-3.5-MoE's sparse mixer, as at evaluation: the two of the largest logits z, whose weights are weight_scale times
/// softmaxes over near rivals alone; of the first s over the experts e with (z[s] - z[e]) / max(|z[e]|, z[s]) <=
/// 2 jitter, of the second likewise without the first. Who is near takes no gradient. Probabilities, for the balance
/// loss, are the softmax over all. As route() otherwise.
Routing route_sparse_mixer(Tape& tape, const Var& logits /*[T,E]*/, double jitter, double weight_scale,
                           const Tensor* replay = nullptr);

}  // namespace limbeck::core
