// A router: scores of the experts, the K best, their weights. Mixtral, Qwen3-MoE and OLMoE take a softmax's
// probabilities; DeepSeek's take their experts of the best groups alone, and those of V3 sigmoids, and a bias that
// experts are chosen by. Phi-3.5-MoE has a sparse mixer.
//
//     Var logits = linear(tape, x, router_weight);                                             // [T,E]
//     Routing r = route(tape, logits, 4, /*renormalise=*/true, /*weight_scale=*/1.0, replay);
//
// A replay takes another run's selection in the place of the top K, so that recomputed blocks and compared layouts
// cannot flip at near ties; weights and gradients follow from this run's logits.
#pragma once

#include <functional>

#include "core/tape.h"
#include "kernels/routing.h"

namespace limbeck::core {

struct Routing {
  Tensor selection;   // [T,K] int32, by falling score (with bias), ties to the lower index; or RoutingRule::choice's
  Var weights;        // of the selection's shape
  Var probabilities;  // [T,E]: of a softmax, or sigmoids over their sum
};

/// What scores are, and which are compared.
struct RoutingRule {
  bool is_sigmoid = false;             // scores are sigmoids of the logits; else probabilities
  kernels::RoutingGroups groups = {};  // of which a token's experts are (kernels/routing.h)
  Tensor bias = {};                    // [E] of the logits' dtype, or none: added to scores to choose, and no more
  /// The selection [T,E] int32 by scores [T,E], in the place of each token's K best: -1 is no expert, and its weight 0
  /// (choose_tokens in core/ops/capacity.h). Neither groups nor bias count then.
  std::function<Tensor(const Tensor& scores)> choice = {};
};

/// weights = weight_scale * scores[selection], divided by their sum where `renormalise`. float32 or float64.
/// `replay`, as the selection is, or null. Logits that are not finite give probabilities that are not, and a valid
/// selection.
Routing route(Tape& tape, const Var& logits /*[T,E]*/, std::int64_t experts_per_token, bool renormalise,
              double weight_scale, const Tensor* replay = nullptr, const RoutingRule& rule = {});

/// Phi-3.5-MoE's sparse mixer, as at evaluation: the two of the largest logits z, whose weights are weight_scale times
/// softmaxes over near rivals alone; of the first s over the experts e with (z[s] - z[e]) / max(|z[e]|, z[s]) <=
/// 2 jitter, of the second likewise without the first. Who is near takes no gradient. Probabilities, for the balance
/// loss, are the softmax over all. As route() otherwise.
Routing route_sparse_mixer(Tape& tape, const Var& logits /*[T,E]*/, double jitter, double weight_scale,
                           const Tensor* replay = nullptr);

}  // namespace limbeck::core
