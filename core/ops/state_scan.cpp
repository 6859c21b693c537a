#include "core/ops/state_scan.h"

#include <vector>

#include "kernels/state_scan.h"

namespace limbeck::core {
namespace {

kernels::ScanProblem make_problem(const ScanShape& s, const Sequences& sequences, const SequenceState* state) {
  return {.sequences = kernel_sequences(sequences, state),
          .num_heads = s.num_heads,
          .width = s.width,
          .num_groups = s.num_groups,
          .state_width = s.state_width,
          .least_step = s.least_step,
          .most_step = s.most_step};
}

void check_inputs(const Var& x, const Var& dt, const Var& b, const Var& c, const ScanWeights& w, const ScanShape& s) {
  check(s.num_groups > 0 && s.num_heads > 0 && s.num_heads % s.num_groups == 0 && s.width > 0 && s.state_width > 0,
        "state_scan: {} groups, {} heads of {} channels, states of {}, expected all above 0 and groups that divide the "
        "heads",
        s.num_groups, s.num_heads, s.width, s.state_width);
  check(s.least_step >= 0 && s.most_step >= s.least_step, "state_scan: steps within {} and {}, expected 0 or more",
        s.least_step, s.most_step);
  const std::int64_t tokens = x.shape().rank() == 2 ? x.shape()[0] : 0;
  const DType dtype = x.value.dtype();
  const auto expect = [](std::string_view name, const Var& v, DType type, const Shape& shape) {
    check(v.value.dtype() == type && v.shape() == shape, "state_scan: {} is {} {}, expected {} {}", name,
          v.value.dtype(), v.shape(), type, shape);
  };
  expect("x", x, dtype, {tokens, s.num_heads * s.width});
  expect("dt", dt, dtype, {tokens, s.num_heads});
  expect("b", b, dtype, {tokens, s.num_groups * s.state_width});
  expect("c", c, dtype, {tokens, s.num_groups * s.state_width});
  expect("dt_bias", w.dt_bias, sum_dtype(dtype), {s.num_heads});
  expect("a_log", w.a_log, sum_dtype(dtype), {s.num_heads});
  expect("skip", w.skip, sum_dtype(dtype), {s.num_heads});
}

/// What the backward reads.
struct Kept {
  Saved x, dt, b, c, dt_bias, a_log, skip;

  template <class T>
  kernels::ScanInputs<T> inputs() const {
    using Sum = kernels::Acc<T>;
    return {x.get().data<T>(),         dt.get().data<T>(),      b.get().data<T>(),     c.get().data<T>(),
            dt_bias.get().data<Sum>(), a_log.get().data<Sum>(), skip.get().data<Sum>()};
  }
};

}  // namespace

Var state_scan(Tape& tape, const Var& x, const Var& dt, const Var& b, const Var& c, const ScanWeights& weights,
               const ScanShape& shape, const Sequences& sequences, const std::optional<SequenceState>& state) {
  check_inputs(x, dt, b, c, weights, shape);
  check_sequences("state_scan", sequences, x.shape()[0]);
  const DType dtype = x.value.dtype(), sums = sum_dtype(dtype);
  if (state) check_state("state_scan", *state, sequences, sums, {shape.num_heads, shape.width, shape.state_width});

  const Kept kept{x.value, dt.value, b.value, c.value, weights.dt_bias.value, weights.a_log.value, weights.skip.value};
  const kernels::ScanProblem problem = make_problem(shape, sequences, state ? &*state : nullptr);
  Tensor y = empty_like(x.value), room = Tensor::empty(y.memory(), sums, {problem.room()});
  dispatch_activation("state_scan", dtype, [&]<class T>() {
    using Sum = kernels::Acc<T>;
    Tensor rows = state ? state->rows : Tensor();
    on_device(y, [&](const auto& device) {
      kernels::state_scan(device, problem, kept.inputs<T>(), room.mutable_data<Sum>(),
                          state ? rows.mutable_data<Sum>() : nullptr, y.mutable_data<T>());
    });
  });
  Var out = tape.output(std::move(y), {&x, &dt, &b, &c, &weights.dt_bias, &weights.a_log, &weights.skip});
  if (!out.slot) return out;
  check(!state, "state_scan: what goes on from a state takes no gradient");

  const std::vector<SlotPtr> to = {x.slot,           dt.slot, b.slot, c.slot, weights.dt_bias.slot, weights.a_log.slot,
                                   weights.skip.slot};
  tape.push({"state_scan", to, [=, slot = out.slot, like = outline(out.value)] {
               const Tensor dy = gradient(slot, like);
               const kernels::ScanProblem whole = make_problem(shape, sequences, nullptr);
               Tensor memory = Tensor::empty(dy.memory(), sums, {whole.gradient_room()});
               std::vector<Tensor> d;
               for (const Saved* input : {&kept.x, &kept.dt, &kept.b, &kept.c, &kept.dt_bias, &kept.a_log, &kept.skip})
                 d.push_back(empty_like(input->get()));
               dispatch_activation("state_scan", dtype, [&]<class T>() {
                 using Sum = kernels::Acc<T>;
                 on_device(dy, [&](const auto& device) {
                   kernels::state_scan_gradient(
                       device, whole, kept.inputs<T>(), dy.data<T>(), memory.mutable_data<Sum>(),
                       kernels::ScanGradients<T>{d[0].mutable_data<T>(), d[1].mutable_data<T>(), d[2].mutable_data<T>(),
                                                 d[3].mutable_data<T>(), d[4].mutable_data<Sum>(),
                                                 d[5].mutable_data<Sum>(), d[6].mutable_data<Sum>()});
                 });
               });
               for (std::size_t i = 0; i < d.size(); ++i) accumulate(to[i], d[i]);
             }});
  return out;
}

}  // namespace limbeck::core
