#include "core/nn/layer.h"

#include "core/ops/add.h"
#include "core/ops/rms_norm.h"

namespace limbeck::nn {
namespace {

using core::as_var;

}  // namespace

Var Layer::forward(Tape& tape, const Pass& pass, const Var& x, std::int64_t local, AuxiliaryLosses& losses) const {
  const Var normed = core::rms_norm(tape, x, as_var(*attention_norm), norm_eps, compute);
  const Var attended = core::add(tape, x, attention.forward(tape, pass, normed, local));
  const Var normed_again = core::rms_norm(tape, attended, as_var(*mlp_norm), norm_eps, compute);
  const Var fed = std::holds_alternative<Mlp>(feed_forward)
                      ? std::get<Mlp>(feed_forward).forward(tape, pass, normed_again)
                      : std::get<Moe>(feed_forward).forward(tape, pass, normed_again, losses);
  return core::add(tape, attended, fed);
}

}  // namespace limbeck::nn
