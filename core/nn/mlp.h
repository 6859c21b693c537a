// The dense feed-forward of a layer, and the shared experts of a mixture.
#pragma once

#include "core/nn/pass.h"

namespace limbeck::nn {

/// Dense feed-forward: down(activation(gate x) * up x), or without a gate down(activation(up x)).
struct Mlp {
  Activation activation = Activation::Silu;
  Parameter *gate, *up, *down;  // [F_local,C], null where there is none; [F_local,C] [C,F_local]
  double activation_limit = 0;
  Parameter *gate_bias = nullptr, *up_bias = nullptr, *down_bias = nullptr;  // [F_local] [F_local] [C], or null

  Var forward(Tape& tape, const Pass& pass, const Var& x) const;
};

}  // namespace limbeck::nn
