// A transformer layer: attention and a feed-forward, each behind a norm and added to the stream.
#pragma once

#include <cstdint>
#include <variant>

#include "core/nn/attention.h"
#include "core/nn/mlp.h"
#include "core/nn/moe.h"

namespace limbeck::nn {

struct Layer {
  std::int64_t index = 0;  // in the whole model
  double norm_eps = 1e-5;
  core::DType compute = core::DType::F32;  // of activations
  Parameter *attention_norm, *mlp_norm;    // [C]
  Attention attention;
  std::variant<Mlp, Moe> feed_forward;

  /// x [T,C] -> [T,C], of the stream's dtype; `local` counts from 0 within this model.
  Var forward(Tape& tape, const Pass& pass, const Var& x, std::int64_t local, AuxiliaryLosses& losses) const;
};

}  // namespace limbeck::nn
