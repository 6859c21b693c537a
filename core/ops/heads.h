// Parts of attention's heads: keys of latent attention, whose turning channels are one part for all heads.
//
//     Var keys = join_heads(tape, own /*[T,H*A]*/, common /*[T,B]*/, H);      // [T,H*(A+B)]
//     Tensor turned = heads_first(out, 0, R, H);                              // [T,H*W] -> [H*T,R]
#pragma once

#include "core/tape.h"

namespace limbeck::core {

/// Head h of row t is own[t,h] and, behind it, common[t]. Float32, float64 or bfloat16. The gradient of `common` is the
/// sum over the heads in their order.
Var join_heads(Tape& tape, const Var& own /*[T,H*A]*/, const Var& common /*[T,B]*/, std::int64_t num_heads);

/// Channels [first, first + width) of each head of x [T,H*W], a head's rows one behind the other: [H*T,width].
Tensor heads_first(const Tensor& x, std::int64_t first, std::int64_t width, std::int64_t num_heads);

/// Writes rows of heads_first's order, x [H*T,A], to channels [first, first + A) of each head of `to` [T,H*W].
void put_heads(const Tensor& x, std::int64_t first, std::int64_t num_heads, Tensor to);

}  // namespace limbeck::core
