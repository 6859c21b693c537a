#include "core/nn/layer.h"

#include <utility>

#include "core/ops/cast.h"

namespace limbeck::nn {

Var Layer::read(Tape& tape, ResidualStream& stream, const Norm& norm) const {
  if (norm) return norms.normed(tape, stream, norm, compute);
  return core::cast(tape, stream.sum(tape), compute);
}

void Layer::give(Tape& tape, ResidualStream& stream, Var update, const Norm& norm) const {
  stream.add(norm ? norms.normed(tape, update, norm) : std::move(update));
}

void Layer::forward(Tape& tape, const Pass& pass, ResidualStream& stream, std::int64_t local,
                    AuxiliaryLosses& losses) const {
  give(tape, stream, attention.forward(tape, pass, read(tape, stream, attention_norm), local), attention_post_norm);
  const Var seen = read(tape, stream, mlp_norm);
  give(tape, stream,
       std::holds_alternative<Mlp>(feed_forward) ? std::get<Mlp>(feed_forward).forward(tape, pass, seen)
                                                 : std::get<Moe>(feed_forward).forward(tape, pass, seen, losses),
       mlp_post_norm);
}

}  // namespace limbeck::nn
