#include "core/nn/layer.h"

#include <utility>

#include "core/ops/cast.h"

namespace limbeck::nn {

Var Layer::read(Tape& tape, ResidualStream& stream, const Norm& norm) const {
  if (norm) return norms.normed(tape, stream, norm, compute);
  return core::cast(tape, stream.sum(tape), compute);
}

/// What is added to the stream of what a block gives.
Var Layer::given(Tape& tape, Var made, const Norm& norm) const {
  Var update = norm ? norms.normed(tape, made, norm) : std::move(made);
  return residual_scale == 1 ? update : core::scale(tape, update, residual_scale);
}

void Layer::add(Tape& tape, const Pass& pass, ResidualStream& stream, Block block, Var update,
                AuxiliaryLosses& losses) const {
  if (pass.match_update)
    add_term(tape, losses.updates[static_cast<std::size_t>(block)], pass.match_update(tape, block, index, update));
  stream.add(std::move(update));
}

void Layer::forward(Tape& tape, const Pass& pass, ResidualStream& stream, std::int64_t local,
                    AuxiliaryLosses& losses) const {
  const Var read_by_mixer = read(tape, stream, mixer_norm);
  Var mixed =
      given(tape, std::visit([&](const auto& kind) { return kind.forward(tape, pass, read_by_mixer, local); }, mixer),
            mixer_post_norm);
  add(tape, pass, stream, Block::Attention, std::move(mixed), losses);
  if (std::holds_alternative<std::monostate>(feed_forward)) return;
  const Var seen = read(tape, stream, mlp_norm);
  Var fed =
      given(tape,
            std::holds_alternative<Mlp>(feed_forward) ? std::get<Mlp>(feed_forward).forward(tape, pass, seen)
                                                      : std::get<Moe>(feed_forward).forward(tape, pass, seen, losses),
            mlp_post_norm);
  add(tape, pass, stream, Block::FeedForward, std::move(fed), losses);
}

CacheLayer Layer::cached() const {
  return std::visit([](const auto& kind) { return kind.cached(); }, mixer);
}

}  // namespace limbeck::nn
