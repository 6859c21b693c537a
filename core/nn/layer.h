// A transformer layer: attention and a feed-forward, each behind a norm and added to the stream.
#pragma once

#include <cstdint>
#include <variant>

#include "core/nn/attention.h"
#include "core/nn/mlp.h"
#include "core/nn/moe.h"
#include "core/nn/residual_stream.h"

namespace limbeck::nn {

struct Layer {
  std::int64_t index = 0;  // in the whole model
  double norm_eps = 1e-5;
  core::DType compute = core::DType::F32;  // of activations
  Parameter *attention_norm, *mlp_norm;    // [C]
  Attention attention;
  std::variant<Mlp, Moe> feed_forward;

  /// Adds to the stream what attention and feed-forward read of it; `local` counts from 0 within this model.
  void forward(Tape& tape, const Pass& pass, ResidualStream& stream, std::int64_t local, AuxiliaryLosses& losses) const;
};

}  // namespace limbeck::nn
