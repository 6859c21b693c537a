#include "core/nn/attention.h"

#include <tuple>

#include "core/nn/stream.h"
#include "core/ops/linear.h"
#include "core/ops/rope.h"

namespace limbeck::nn {
namespace {

using core::as_var;

}  // namespace

Var Attention::forward(Tape& tape, const Pass& pass, const Var& x, std::int64_t layer) const {
  const Var entered = enter_stream(tape, pass, x);
  Var queries = core::linear(tape, entered, as_var(*q), pass.products);
  Var keys = core::linear(tape, entered, as_var(*k), pass.products);
  std::tie(queries, keys) = core::rope(tape, std::move(queries), std::move(keys), pass.batch.position, pass.rope);
  Var values = core::linear(tape, entered, as_var(*v), pass.products);
  end_of_reads(tape, pass, entered, x);
  if (pass.cache) {
    auto [all_keys, all_values] = pass.cache->append(layer, pass.cached, keys.value, values.value);
    keys = core::constant(all_keys);
    values = core::constant(all_values);
  }
  const Var attended = core::attention(tape, queries, keys, values, shape, pass.attention);
  return exit_stream(tape, pass, core::linear(tape, attended, as_var(*o), pass.products));
}

}  // namespace limbeck::nn
