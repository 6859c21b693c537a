// Self-attention of a layer. Like every part of a layer it holds pointers to its parameters, which the Transformer
// owns; forward() computes eagerly and records on the tape. One source serves every layout: what differs is behind
// Pass::comms and in core/nn/stream.h.
#pragma once

#include <cstdint>
#include <optional>

#include "core/nn/norms.h"
#include "core/nn/pass.h"
#include "core/ops/attention.h"

namespace limbeck::nn {

struct Attention {
  Parameter *q, *k, *v, *o;              // [H*D,C] [G*D,C] [G*D,C] [C,H*D], H and G of this rank
  core::AttentionShape shape;            // of this rank's heads; there may be none
  std::optional<std::size_t> rope = {};  // which of the pass's tables; none: nothing turns
  // Null where the model has none:
  Parameter *q_bias = nullptr, *k_bias = nullptr, *v_bias = nullptr, *o_bias = nullptr;  // [H*D] [G*D] [G*D] [C]
  Norm q_norm, k_norm;         // [D], for each head; or as the biases, for all
  Parameter* sinks = nullptr;  // [H]
  Norms norms;                 // of those two

  /// x [T,C] -> [T,C], T the tokens of the stream here; `layer` counts from 0 within this model, for the cache.
  Var forward(Tape& tape, const Pass& pass, const Var& x, std::int64_t layer) const;
  /// What a cache has of it.
  CacheLayer cached() const { return {shape.num_kv_heads * shape.width, shape.num_kv_heads * shape.value_width}; }
};

}  // namespace limbeck::nn
