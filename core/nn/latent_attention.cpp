#include "core/nn/latent_attention.h"

#include <tuple>

#include "core/nn/stream.h"
#include "core/ops/heads.h"
#include "core/ops/linear.h"
#include "core/ops/rope.h"

namespace limbeck::nn {

using core::as_var;

Var LatentAttention::forward(Tape& tape, const Pass& pass, const Var& x, std::int64_t layer) const {
  const auto product = [&](const Var& of, const Parameter& weight) {
    return core::linear(tape, of, as_var(weight), pass.products);
  };
  const Var asked = q_a != nullptr ? norms.normed(tape, product(x, *q_a), q_a_norm) : x;
  const Var latent = norms.normed(tape, product(x, *kv_a), kv_a_norm);
  Var turning = enter_stream(tape, pass, product(x, *k_rope));
  const Var entered_asked = enter_stream(tape, pass, asked), entered = enter_stream(tape, pass, latent);
  const std::int64_t turned = k_rope->value.shape()[0];
  Var queries = product(entered_asked, *q);
  end_of_reads(tape, pass, entered_asked, asked);
  std::tie(queries, turning) = core::rope(tape, std::move(queries), std::move(turning), pass.rope_rows[rope],
                                          pass.ropes[rope], {shape.width, shape.width - turned});
  Var keys = core::join_heads(tape, product(entered, *k_b), turning, shape.num_heads);
  Var values = product(entered, *v_b);
  end_of_reads(tape, pass, entered, latent);
  if (pass.cache) {
    auto [all_keys, all_values] = pass.cache->append(layer, pass.cached, keys.value, values.value);
    keys = core::constant(all_keys);
    values = core::constant(all_values);
  }
  const Var attended = core::attention(tape, queries, keys, values, shape, pass.attention);
  return exit_stream(tape, pass, product(attended, *o));
}

}  // namespace limbeck::nn
