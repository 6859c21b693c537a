// A layer: what mixes tokens, attention or a state space, and a feed-forward, each with norms before it, after it or
// around it, and added to the stream.
#pragma once

#include <cstdint>
#include <variant>

#include "core/nn/attention.h"
#include "core/nn/latent_attention.h"
#include "core/nn/mamba.h"
#include "core/nn/mlp.h"
#include "core/nn/moe.h"
#include "core/nn/norms.h"
#include "core/nn/residual_stream.h"

namespace limbeck::nn {

struct Layer {
  std::int64_t index = 0;  // in the whole model
  Norms norms;
  core::DType compute = core::DType::F32;  // of activations
  double residual_scale = 1;               // of what is added to the stream
  // Of what a block reads, and of what it gives.
  Norm mixer_norm, mlp_norm;
  Norm mixer_post_norm, mlp_post_norm;
  std::variant<Attention, LatentAttention, Mamba> mixer;
  std::variant<std::monostate, Mlp, Moe> feed_forward;  // the first: none

  /// Adds to the stream what mixer and feed-forward make of it; `local` counts from 0 within this model.
  void forward(Tape& tape, const Pass& pass, ResidualStream& stream, std::int64_t local, AuxiliaryLosses& losses) const;
  /// What a cache has of it.
  CacheLayer cached() const;

 private:
  Var read(Tape& tape, ResidualStream& stream, const Norm& norm) const;
  Var given(Tape& tape, Var made, const Norm& norm) const;
  void add(Tape& tape, const Pass& pass, ResidualStream& stream, Block block, Var update,
           AuxiliaryLosses& losses) const;
};

}  // namespace limbeck::nn
