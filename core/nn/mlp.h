// The dense feed-forward of a layer, and the shared experts of a mixture.
#pragma once

#include "core/nn/pass.h"

namespace limbeck::nn {

/// Dense feed-forward: down(activation(gate x) * up x).
struct Mlp {
  Activation activation = Activation::Silu;
  Parameter *gate, *up, *down;  // [F_local,C] [F_local,C] [C,F_local]

  Var forward(Tape& tape, const Pass& pass, const Var& x) const;
};

}  // namespace limbeck::nn
