// A limit on the assignments that an expert takes; those above it are dropped: the expert does not see the token, and
// its part of the sum is missing (the other weights stay as they are).
//
//     Tensor kept = limit_capacity(routing.selection, batch.sequence, num_experts, /*factor=*/1.25);
//     Permutation order = make_permutation(kept, num_experts, Drops::Some);
#pragma once

#include "core/tensor.h"

namespace limbeck::core {

/// [T,K] int32, the selection with -1 for what is dropped. Each sequence (a run of equal numbers in `sequence`) of S
/// tokens gives an expert room for ceil(factor S K / E) of its assignments, and its first ones in the order of the
/// tokens have it: a token's fate does not depend on later ones, nor on the layout. factor > 0. GShard (Lepikhin et al.
/// 2020), with a packed sequence as the group.
Tensor limit_capacity(const Tensor& selection /*[T,K] int32*/, const Tensor& sequence /*[T] int32*/,
                      std::int64_t num_experts, double factor);

}  // namespace limbeck::core
