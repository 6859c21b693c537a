#include "core/nn/projected.h"

#include <algorithm>

#include "core/nn/stream.h"
#include "core/ops/add.h"
#include "core/ops/add_bias.h"
#include "core/ops/grouped_linear.h"
#include "core/ops/linear.h"
#include "core/ops/product.h"

namespace limbeck::nn {

using core::as_var;

Var projected(Tape& tape, const Pass& pass, const Var& x, const Parameter& weight, const Parameter* bias) {
  const Var y = core::linear(tape, x, as_var(weight), pass.products, core::as_optional_var(bias));
  if (!weight.adapter) return y;
  const Var narrow = core::scale(tape, core::linear(tape, x, as_var(*weight.adapter->a)), weight.adapter->scale);
  return core::add(tape, y, core::linear(tape, narrow, as_var(*weight.adapter->b)));
}

std::vector<Var> enter_projected(Tape& tape, const Pass& pass, const Var& x,
                                 const std::vector<Projection>& projections) {
  const bool is_adapted =
      std::ranges::any_of(projections, [](const Projection& p) { return p.weight->adapter.has_value(); });
  std::vector<Var> made;
  if (is_adapted) {
    const Var entered = enter_stream(tape, pass, x);
    for (const Projection& p : projections) made.push_back(projected(tape, pass, entered, *p.weight, p.bias));
    end_of_reads(tape, pass, entered, x);
    return made;
  }
  std::vector<Var> weights;
  for (const Projection& p : projections) weights.push_back(as_var(*p.weight));
  TensorComm& ranks = *pass.comms.tensor;
  made = pass.sequence_parallel ? core::enter_sequence_linear(tape, x, pass.batch.num_tokens(), weights, pass.products,
                                                              ranks, pass.tensor_chunks)
                                : core::enter_linear(tape, x, weights, pass.products, ranks, pass.tensor_chunks);
  for (std::size_t i = 0; i < made.size(); ++i)
    if (projections[i].bias != nullptr) made[i] = core::add_bias(tape, made[i], as_var(*projections[i].bias));
  return made;
}

Var exit_projected(Tape& tape, const Pass& pass, const Var& x, const Parameter& weight, const Parameter* bias) {
  const auto in_chunks = pass.sequence_parallel ? core::linear_exit_sequence : core::linear_exit;
  const Var sum = weight.adapter
                      ? exit_stream(tape, pass, projected(tape, pass, x, weight))
                      : in_chunks(tape, x, as_var(weight), pass.products, *pass.comms.tensor, pass.tensor_chunks);
  return bias != nullptr ? core::add_bias(tape, sum, as_var(*bias)) : sum;
}

Var projected_by_experts(Tape& tape, const Var& rows, const Parameter& weight, const Tensor& offsets) {
  const Var y = core::grouped_linear(tape, rows, as_var(weight), offsets);
  if (!weight.adapter) return y;
  const Var narrow =
      core::scale(tape, core::grouped_linear(tape, rows, as_var(*weight.adapter->a), offsets), weight.adapter->scale);
  return core::add(tape, y, core::grouped_linear(tape, narrow, as_var(*weight.adapter->b), offsets));
}

Tensor merged(const Parameter& weight) {
  if (!weight.adapter) return weight.value;
  const core::DType wide = weight.adapter->a->value.dtype();
  const Tensor update = Tensor::empty(weight.value.memory(), wide, weight.value.shape());
  core::product("merged", weight.adapter->b->value, core::Transpose::No, weight.adapter->a->value, 0, update);
  Tape off(Tape::Mode::Off);
  const Var sum =
      core::add(off, core::scale(off, core::constant(update), weight.adapter->scale), core::constant(weight.value));
  return sum.value.dtype() == weight.value.dtype() ? sum.value : sum.value.to(weight.value.dtype());
}

}  // namespace limbeck::nn
