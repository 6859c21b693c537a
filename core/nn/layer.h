// A transformer layer: attention and a feed-forward, each with norms before it, after it or around it, and added to the
// stream.
#pragma once

#include <cstdint>
#include <utility>
#include <variant>

#include "core/nn/attention.h"
#include "core/nn/latent_attention.h"
#include "core/nn/mlp.h"
#include "core/nn/moe.h"
#include "core/nn/norms.h"
#include "core/nn/residual_stream.h"

namespace limbeck::nn {

struct Layer {
  std::int64_t index = 0;  // in the whole model
  Norms norms;
  core::DType compute = core::DType::F32;  // of activations
  // Of what a block reads, and of what it gives.
  Norm attention_norm, mlp_norm;
  Norm attention_post_norm, mlp_post_norm;
  std::variant<Attention, LatentAttention> attention;
  std::variant<Mlp, Moe> feed_forward;

  /// Adds to the stream what attention and feed-forward read of it; `local` counts from 0 within this model.
  void forward(Tape& tape, const Pass& pass, ResidualStream& stream, std::int64_t local, AuxiliaryLosses& losses) const;
  /// Of the keys and values that a cache has of a token.
  std::pair<std::int64_t, std::int64_t> cache_widths() const;

 private:
  Var read(Tape& tape, ResidualStream& stream, const Norm& norm) const;
  Var given(Tape& tape, Var update, const Norm& norm) const;
  void add(Tape& tape, const Pass& pass, ResidualStream& stream, Block block, Var update,
           AuxiliaryLosses& losses) const;
};

}  // namespace limbeck::nn
