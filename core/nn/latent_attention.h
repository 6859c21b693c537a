// Self-attention whose queries, keys and values are made of narrow latents (DeepSeek-V2). The latents and their norms
// are whole on every rank of a tensor group; what widens them is cut by heads. A cache holds the latents: what widens
// them is absorbed then into queries and outputs.
#pragma once

#include <cstdint>

#include "core/nn/norms.h"
#include "core/nn/pass.h"
#include "core/ops/attention.h"

namespace limbeck::nn {

/// With c = norm(kv_a x), a head's key is [k_b c, turned(k_rope x)], the last part one for all heads, and its value is
/// v_b c. Its query is q_b norm(q_a x), or q x, of which the last channels turn.
struct LatentAttention {
  Parameter* q_a = nullptr;    // [Rq,C]; null where queries are made of the stream
  Parameter* q;                // [H*D,Rq] or [H*D,C], H of this rank
  Parameter* kv_a;             // [R,C]
  Parameter* k_rope;           // [Dr,C]
  Parameter *k_b, *v_b;        // [H*(D-Dr),R] [H*Dv,R]
  Parameter* o;                // [C,H*Dv]
  core::AttentionShape shape;  // of this rank's heads; there may be none
  std::size_t rope = 0;        // which of the pass's tables
  Norm q_a_norm, kv_a_norm;    // [Rq] [R]: of the latents
  Norms norms;                 // of those two

  bool absorbs = false;  // with a cache

  /// x [T,C] -> [T,C], T the tokens of the stream here; `layer` counts from 0 within this model, for the cache.
  Var forward(Tape& tape, const Pass& pass, const Var& x, std::int64_t layer) const;

  /// What a cache has of it: of a token the latent and the turned part, and nothing beside them; or all heads' keys and
  /// values.
  CacheLayer cached() const;

 private:
  Var absorbed(Tape& tape, const Pass& pass, const Var& queries, const Var& latent, const Var& turning,
               std::int64_t layer) const;
  Var widened(Tape& tape, const Pass& pass, const Var& queries, const Var& latent, const Var& turning,
              std::int64_t layer) const;
};

}  // namespace limbeck::nn
