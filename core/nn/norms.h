// How the norms of a model are computed.
//
//     Var y = norms.normed(tape, x, layer.mlp_post_norm);                           // of x [T,C]
//     Var read = norms.normed(tape, stream, layer.attention_norm, DType::BF16);     // of the stream
#pragma once

#include "core/nn/residual_stream.h"
#include "core/ops/layer_norm.h"
#include "core/ops/offset.h"
#include "core/ops/rms_norm.h"

namespace limbeck::nn {

/// The parameters of one, [C] each; null where there is none. Of RMSNorm the weight alone, of LayerNorm both.
struct Norm {
  core::Parameter* weight = nullptr;
  core::Parameter* bias = nullptr;

  explicit operator bool() const { return weight != nullptr; }
};

struct Norms {
  double eps = 1e-5;
  double offset = 0;  // of the weights

  core::Var normed(core::Tape& tape, const core::Var& x, const Norm& norm) const {
    if (norm.bias != nullptr)
      return core::layer_norm(tape, x, core::as_var(*norm.weight), core::as_var(*norm.bias), eps);
    return core::rms_norm(tape, x, weight(tape, norm), eps);
  }
  /// Of a dtype: that of what is added to the stream.
  core::Var normed(core::Tape& tape, ResidualStream& stream, const Norm& norm, core::DType dtype) const {
    if (norm.bias != nullptr)
      return core::layer_norm(tape, stream.sum(tape), core::as_var(*norm.weight), core::as_var(*norm.bias), eps, dtype);
    return stream.normed(tape, weight(tape, norm), eps, dtype);
  }
  /// The weight that RMSNorm multiplies by.
  core::Var weight(core::Tape& tape, const Norm& norm) const {
    const core::Var own = core::as_var(*norm.weight);
    return offset == 0 ? own : core::offset(tape, own, offset);
  }
};

}  // namespace limbeck::nn
