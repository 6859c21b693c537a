#include "core/nn/attention.h"

#include <tuple>
#include <utility>
#include <vector>

#include "core/nn/projected.h"
#include "core/ops/cut_rms_norm.h"
#include "core/ops/rope.h"

namespace limbeck::nn {

using core::as_optional_var;

namespace {

/// Of each head, or of all heads, of which this rank may have some.
Var head_normed(Tape& tape, const Pass& pass, const Var& heads, const Norm& norm, const Norms& norms) {
  const std::int64_t all = norm.weight->global_shape[0];
  if (norm.weight->value.shape()[0] == all) return norms.normed(tape, heads, norm);
  return core::cut_rms_norm(tape, heads, norms.weight(tape, norm), all, norms.eps, *pass.comms.tensor);
}

}  // namespace

Var Attention::forward(Tape& tape, const Pass& pass, const Var& x, std::int64_t layer) const {
  std::vector<Var> made = enter_projected(tape, pass, x, {{q, q_bias}, {k, k_bias}, {v, v_bias}});
  Var queries = std::move(made[0]), keys = std::move(made[1]), values = std::move(made[2]);
  if (q_norm) queries = head_normed(tape, pass, queries, q_norm, norms);
  if (k_norm) keys = head_normed(tape, pass, keys, k_norm, norms);
  if (rope)
    std::tie(queries, keys) = core::rope(tape, std::move(queries), std::move(keys), pass.rope_rows[*rope],
                                         pass.ropes[*rope], {shape.width}, {shape.width});
  if (pass.cache) {
    auto [all_keys, all_values] = pass.cache->append(layer, pass.cached, keys.value, values.value);
    keys = core::constant(all_keys);
    values = core::constant(all_values);
  }
  const Var attended = pass.attend(tape, queries, keys, values, shape, as_optional_var(sinks));
  if (pass.inside && !tape.is_replay()) pass.inside(Inside::Heads, attended.value);
  return exit_projected(tape, pass, attended, *o, o_bias);
}

}  // namespace limbeck::nn
