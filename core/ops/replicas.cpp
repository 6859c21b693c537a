#include "core/ops/replicas.h"

#include <utility>

#include "kernels/elementwise.h"

namespace limbeck::core {
namespace {

void add_to_rows(const Tensor& to, const Tensor& x) {
  dispatch_activation("replicas", x.dtype(), [&]<class T>() {
    on_device(
        x, [&](const auto& device) { kernels::add_to(device, x.data<T>(), Tensor(to).mutable_data<T>(), x.numel()); });
  });
}

}  // namespace

ReplicasUnderWay::ReplicasUnderWay(Tape& tape, const Var& stack, nn::ReplicaComm& comm,
                                   std::vector<std::int64_t> experts)
    : tape_(tape),
      stack_(stack),
      comm_(comm),
      experts_(std::move(experts)),
      there_(comm.start_gather(stack.value, experts_)) {}

Var ReplicasUnderWay::finish() {
  Var out = tape_.output(std::exchange(there_, {})(), {&stack_});
  if (!out.slot) return out;
  const DType sums = sum_dtype(stack_.value.dtype());
  Tape::Step step{"replicas", {}, {}};
  step.weight_slots = {stack_.slot};
  step.weight_part = [&comm = comm_, experts = experts_, slot = out.slot, like = outline(out.value, sums),
                      to = stack_.slot, stack_like = outline(stack_.value, sums)] {
    const std::int64_t num_local = stack_like.shape()[0];
    const Tensor sum = comm.sum_of_own(gradient(slot, like), experts, num_local);
    const GradientTarget target = open_gradient(to, stack_like);
    if (target.beta == 0) Tensor(target.tensor).fill_zero();
    std::int64_t row = 0;
    for (const std::int64_t expert : comm.own(experts, num_local))
      add_to_rows(target.tensor.rows(expert, 1), sum.rows(row++, 1));
  };
  tape_.push(std::move(step));
  return out;
}

Var last_rows(Tape& tape, const Var& x, std::int64_t first) {
  const std::int64_t count = x.shape()[0] - first;
  Var out = tape.output(x.value.rows(first, count).clone(), {&x});
  if (out.slot)
    tape.push({"last_rows",
               {x.slot},
               [slot = out.slot, like = outline(out.value), to = x.slot, whole = outline(x.value), first, count] {
                 const GradientTarget target = open_gradient(to, whole);
                 if (target.beta == 0) Tensor(target.tensor.rows(0, first)).fill_zero();
                 const Tensor dy = gradient(slot, like), rows = target.tensor.rows(first, count);
                 if (target.beta == 0)
                   Tensor(rows).copy_from(dy);
                 else
                   add_to_rows(rows, dy);
               }});
  return out;
}

Var with_last_rows(Tape& tape, Var x, const Var& rows) {
  const std::int64_t count = rows.shape()[0], first = x.shape()[0] - count;
  Tensor whole = x.value.is_sole_owner() ? std::exchange(x.value, {}) : x.value.clone();
  whole.rows(first, count).copy_from(rows.value);
  Var out = tape.output(std::move(whole), {&x, &rows});
  if (out.slot)
    tape.push({"with_last_rows",
               {x.slot, rows.slot},
               [slot = out.slot, like = outline(out.value), to_x = x.slot, to_rows = rows.slot, first, count] {
                 const Tensor dy = gradient(slot, like);
                 accumulate(to_rows, dy.rows(first, count));
                 accumulate(to_x, dy);  // whose last rows its step does not read
               }});
  return out;
}

}  // namespace limbeck::core
