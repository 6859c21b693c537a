#include "core/nn/layer.h"

namespace limbeck::nn {

using core::as_var;

void Layer::forward(Tape& tape, const Pass& pass, ResidualStream& stream, std::int64_t local,
                    AuxiliaryLosses& losses) const {
  stream.add(attention.forward(tape, pass, stream.normed(tape, as_var(*attention_norm), norm_eps, compute), local));
  const Var normed = stream.normed(tape, as_var(*mlp_norm), norm_eps, compute);
  stream.add(std::holds_alternative<Mlp>(feed_forward)
                 ? std::get<Mlp>(feed_forward).forward(tape, pass, normed)
                 : std::get<Moe>(feed_forward).forward(tape, pass, normed, losses));
}

}  // namespace limbeck::nn
