#include "core/nn/latent_attention.h"

#include <tuple>
#include <vector>

#include "core/nn/projected.h"
#include "core/nn/stream.h"
#include "core/ops/grouped_linear.h"
#include "core/ops/heads.h"
#include "core/ops/rope.h"

namespace limbeck::nn {

Var LatentAttention::forward(Tape& tape, const Pass& pass, const Var& x, std::int64_t layer) const {
  const auto product = [&](const Var& of, const Parameter& weight) { return projected(tape, pass, of, weight); };
  const Var asked = q_a != nullptr ? norms.normed(tape, product(x, *q_a), q_a_norm) : x;
  const Var latent = norms.normed(tape, product(x, *kv_a), kv_a_norm);
  Var turning = enter_stream(tape, pass, product(x, *k_rope));
  const std::int64_t turned = k_rope->value.shape()[0];
  Var queries = enter_projected(tape, pass, asked, {{q}})[0];
  std::tie(queries, turning) = core::rope(tape, std::move(queries), std::move(turning), pass.rope_rows[rope],
                                          pass.ropes[rope], {shape.width, shape.width - turned});
  const Var attended = pass.cache != nullptr && absorbs
                           ? absorbed(tape, pass, queries, enter_stream(tape, pass, latent), turning, layer)
                           : widened(tape, pass, queries, latent, turning, layer);
  return exit_projected(tape, pass, attended, *o);
}

Var LatentAttention::widened(Tape& tape, const Pass& pass, const Var& queries, const Var& latent, const Var& turning,
                             std::int64_t layer) const {
  std::vector<Var> made = enter_projected(tape, pass, latent, {{k_b}, {v_b}});
  Var keys = std::move(made[0]), values = std::move(made[1]);
  keys = core::join_heads(tape, keys, turning, shape.num_heads);
  if (pass.cache) {
    auto [all_keys, all_values] = pass.cache->append(layer, pass.cached, keys.value, values.value);
    keys = core::constant(all_keys);
    values = core::constant(all_values);
  }
  return pass.attend(tape, queries, keys, values, shape);
}

// A head's score k_b c . q is c . (k_b^T q), and its output v_b (sum of p c): latents are keys and values of one head
// that all queries share.
Var LatentAttention::absorbed(Tape& tape, const Pass& pass, const Var& queries, const Var& latent, const Var& turning,
                              std::int64_t layer) const {
  const std::int64_t tokens = latent.shape()[0], rank = latent.shape()[1], turned = turning.shape()[1];
  const std::int64_t heads = shape.num_heads, width = rank + turned, own = shape.width - turned;
  const MemoryPtr& memory = latent.value.memory();
  const Tensor nothing = Tensor::empty(memory, latent.value.dtype(), {tokens, 0});
  const Tensor seen =
      pass.cache->append(layer, pass.cached, core::join_heads(tape, latent, turning, 1).value, nothing).first;
  if (heads == 0) return core::constant(nothing);
  std::vector<std::int64_t> ends;
  for (std::int64_t h = 0; h <= heads; ++h) ends.push_back(h * tokens);
  const Tensor offsets = Tensor::from<std::int64_t>(memory, {heads + 1}, ends);
  const Tensor asked = Tensor::empty(memory, latent.value.dtype(), {tokens, heads * width});
  core::put_heads(core::grouped_transposed(core::heads_first(queries.value, 0, own, heads),
                                           merged(*k_b).reshape({heads, own, rank}), offsets),
                  0, heads, asked);
  core::put_heads(core::heads_first(queries.value, own, turned, heads), rank, heads, asked);
  const core::AttentionShape one{heads, 1, width, rank, shape.scale, shape.window, /*values_in_keys=*/true};
  const Var found =
      core::attention(tape, core::constant(asked), core::constant(seen), core::constant(seen), one, pass.attention);
  const Var values =
      core::grouped_linear(tape, core::constant(core::heads_first(found.value, 0, rank, heads)),
                           core::constant(merged(*v_b).reshape({heads, shape.value_width, rank})), offsets);
  const Tensor all = Tensor::empty(memory, latent.value.dtype(), {tokens, heads * shape.value_width});
  core::put_heads(values.value, 0, heads, all);
  return core::constant(all);
}

CacheLayer LatentAttention::cached() const {
  if (absorbs) return {kv_a->value.shape()[0] + k_rope->value.shape()[0], 0};
  return {shape.num_heads * shape.width, shape.num_heads * shape.value_width};
}

}  // namespace limbeck::nn
