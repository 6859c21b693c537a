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

/// What a scan of cut sequences has of the other ranks'.
struct CutScan {
  SequenceRuns runs;
  nn::ContextComm* comm;
};

/// [R,H,P,N]: the states that this rank's runs go on from; or, with the gradient of what the scan gives, the gradients
/// of what they leave.
Tensor carried(const Kept& kept, const kernels::ScanProblem& problem, const Tensor& dy, const CutScan& cut) {
  const Tensor& x = kept.x.get();
  const DType sums = sum_dtype(x.dtype());
  const std::int64_t own = cut.runs.number(), first = own * cut.comm->rank(), heads = problem.num_heads;
  Tensor parts = Tensor::zeros(x.memory(), sums, {own, heads, problem.width * problem.state_width + 1});
  Tensor room = Tensor::empty(x.memory(), sums, {problem.room()});
  dispatch_activation("cut_state_scan", x.dtype(), [&]<class T>() {
    using Sum = kernels::Acc<T>;
    on_device(x, [&](const auto& device) {
      kernels::state_scan_parts(device, problem, kept.inputs<T>(), dy.defined() ? dy.data<T>() : nullptr,
                                room.mutable_data<Sum>(), parts.mutable_data<Sum>());
    });
  });
  const Tensor all = cut.comm->gather(parts);
  Tensor states = Tensor::zeros(x.memory(), sums, {own, heads, problem.width, problem.state_width});
  const kernels::ScanChains chains{.number = cut.runs.chain_offsets.numel() - 1,
                                   .offsets = cut.runs.chain_offsets.data<std::int64_t>(),
                                   .rows = cut.runs.chain_rows.data<std::int64_t>()};
  dispatch_float("cut_state_scan", sums, [&]<class Sum>() {
    on_device(x, [&](const auto& device) {
      kernels::carry_states(device, chains, dy.defined(), all.data<Sum>(), problem, first, own,
                            states.mutable_data<Sum>());
    });
  });
  return states;
}

/// Of whole sequences, or of this rank's runs of them.
Var scanned(Tape& tape, const Var& x, const Var& dt, const Var& b, const Var& c, const ScanWeights& weights,
            const ScanShape& shape, const Sequences& sequences, const std::optional<SequenceState>& state,
            const std::optional<CutScan>& cut) {
  const DType dtype = x.value.dtype(), sums = sum_dtype(dtype);
  const Kept kept{x.value, dt.value, b.value, c.value, weights.dt_bias.value, weights.a_log.value, weights.skip.value};
  // Which row of states is whose, of runs: whole sequences that take a gradient go on from none.
  const std::optional<SequenceState> own = cut ? std::optional(SequenceState{Tensor(), cut->runs.slots}) : std::nullopt;
  const auto problem_of = [=](const std::optional<SequenceState>& from) {
    kernels::ScanProblem problem = make_problem(shape, sequences, from ? &*from : nullptr);
    problem.few_by_tokens = !cut;
    return problem;
  };
  const kernels::ScanProblem problem = problem_of(cut ? own : state);
  const Tensor before = cut ? carried(kept, problem, {}, *cut) : Tensor();
  Tensor rows = cut ? before.clone() : state ? state->rows : Tensor();
  Tensor y = empty_like(x.value), room = Tensor::empty(y.memory(), sums, {problem.room()});
  dispatch_activation("state_scan", dtype, [&]<class T>() {
    using Sum = kernels::Acc<T>;
    on_device(y, [&](const auto& device) {
      kernels::state_scan(device, problem, kept.inputs<T>(), room.mutable_data<Sum>(),
                          rows.defined() ? rows.mutable_data<Sum>() : nullptr, y.mutable_data<T>());
    });
  });
  Var out = tape.output(std::move(y), {&x, &dt, &b, &c, &weights.dt_bias, &weights.a_log, &weights.skip});
  if (!out.slot) return out;
  check(!state, "state_scan: what goes on from a state takes no gradient");

  const Saved saved_before(before);
  const std::vector<SlotPtr> to = {x.slot,           dt.slot, b.slot, c.slot, weights.dt_bias.slot, weights.a_log.slot,
                                   weights.skip.slot};
  tape.push({"state_scan", to, [=, slot = out.slot, like = outline(out.value)] {
               const Tensor dy = gradient(slot, like);
               const kernels::ScanProblem whole = problem_of(own);
               const Tensor& states = saved_before.get();
               Tensor dstates = cut ? carried(kept, whole, dy, *cut) : Tensor();
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
                                                 d[5].mutable_data<Sum>(), d[6].mutable_data<Sum>()},
                       cut ? states.data<Sum>() : nullptr, cut ? dstates.mutable_data<Sum>() : nullptr);
                 });
               });
               for (std::size_t i = 0; i < d.size(); ++i) accumulate(to[i], d[i]);
             }});
  return out;
}

}  // namespace

Var state_scan(Tape& tape, const Var& x, const Var& dt, const Var& b, const Var& c, const ScanWeights& weights,
               const ScanShape& shape, const Sequences& sequences, const std::optional<SequenceState>& state) {
  check_inputs(x, dt, b, c, weights, shape);
  check_sequences("state_scan", sequences, x.shape()[0]);
  if (state)
    check_state("state_scan", *state, sequences, sum_dtype(x.value.dtype()),
                {shape.num_heads, shape.width, shape.state_width});
  return scanned(tape, x, dt, b, c, weights, shape, sequences, state, {});
}

Var cut_state_scan(Tape& tape, const Var& x, const Var& dt, const Var& b, const Var& c, const ScanWeights& weights,
                   const ScanShape& shape, const SequenceRuns& runs, nn::ContextComm& comm) {
  check_inputs(x, dt, b, c, weights, shape);
  check_sequences("cut_state_scan", runs.own, x.shape()[0]);
  return scanned(tape, x, dt, b, c, weights, shape, runs.own, {}, CutScan{runs, &comm});
}

}  // namespace limbeck::core
