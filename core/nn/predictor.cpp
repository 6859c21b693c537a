#include "core/nn/predictor.h"

#include "core/ops/cast.h"
#include "core/ops/heads.h"
#include "core/ops/linear.h"

namespace limbeck::nn {

Var Predictor::entry(Tape& tape, const Var& embedded, const Var& hidden) const {
  ResidualStream tokens(embedded);
  const Var normed = layer.norms.normed(tape, tokens, embed_norm, layer.compute);
  const Var both = core::join_heads(tape, normed, layer.norms.normed(tape, hidden, hidden_norm), 1);
  return core::cast(tape, core::linear(tape, both, core::as_var(*project)), embedded.value.dtype());
}

}  // namespace limbeck::nn
