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
                                   std::vector<std::int64_t> experts, std::int64_t num_experts)
    : tape_(tape),
      stack_(stack),
      comm_(comm),
      experts_(std::move(experts)),
      num_experts_(num_experts),
      there_(comm.start_gather(stack.value, experts_, num_experts)) {}

Var ReplicasUnderWay::finish() {
  Var out = tape_.output(std::exchange(there_, {})(), {&stack_});
  if (!out.slot) return out;
  const DType sums = sum_dtype(stack_.value.dtype());
  Tape::Step step{"replicas", {}, {}};
  step.weight_slots = {stack_.slot};
  step.weight_part = [&comm = comm_, experts = experts_, num_experts = num_experts_, slot = out.slot,
                      like = outline(out.value, sums), to = stack_.slot, stack_like = outline(stack_.value, sums)] {
    const Tensor sum = comm.sum_of_own(gradient(slot, like), experts, num_experts);
    const GradientTarget target = open_gradient(to, stack_like);
    if (target.beta == 0) Tensor(target.tensor).fill_zero();
    std::int64_t row = 0;
    for (const std::int64_t expert : comm.own(experts, num_experts))
      add_to_rows(target.tensor.rows(expert, 1), sum.rows(row++, 1));
  };
  tape_.push(std::move(step));
  return out;
}

}  // namespace limbeck::core
