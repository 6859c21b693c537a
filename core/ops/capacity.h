// A limit on the assignments that an expert takes; those above it are dropped: the expert does not see the token, and
// its part of the sum is missing (the other weights stay as they are).
//
//     Tensor kept = limit_capacity(routing.selection, batch.sequence, num_experts, /*factor=*/1.25);
//     Permutation order = make_permutation(kept, num_experts, Drops::Some);
//
// Or experts that choose so many tokens each, in the place of tokens that choose experts (RoutingRule::choice).
//
//     Tensor selection = choose_tokens(scores /*[T,E]*/, batch.sequence, experts_per_token, /*factor=*/1.0);
#pragma once

#include "core/tensor.h"

namespace limbeck::core {

/// [T,K] int32, the selection with -1 for what is dropped. Each sequence (a run of equal numbers in `sequence`) of S
/// tokens gives an expert room for ceil(factor S K / E) of its assignments, and its first ones in the order of the
/// tokens have it: a token's fate does not depend on later ones, nor on the layout. factor > 0. GShard (Lepikhin et al.
/// 2020), with a packed sequence as the group.
Tensor limit_capacity(const Tensor& selection /*[T,K] int32*/, const Tensor& sequence /*[T] int32*/,
                      std::int64_t num_experts, double factor);

/// [T,E] int32: e in column e of the tokens that expert e takes, -1 elsewhere. Of each sequence of S tokens an expert
/// takes the min(S, ceil(factor S K / E)) of its greatest scores, ties to the lower token (Zhou et al. 2022, arXiv
/// 2202.09368); a token has up to E experts, or none. What a token gets depends on later ones. float32 or float64.
Tensor choose_tokens(const Tensor& scores /*[T,E]*/, const Tensor& sequence /*[T] int32*/,
                     std::int64_t experts_per_token, double factor);

/// [1] int64: tokens that no expert takes.
Tensor count_untaken(const Tensor& selection /*[T,K] int32*/);

}  // namespace limbeck::core
