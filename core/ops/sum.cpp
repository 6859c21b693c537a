#include "core/ops/sum.h"

#include "core/ops/loss_value.h"
#include "kernels/elementwise.h"
#include "kernels/sums.h"

namespace limbeck::core {
namespace {

Var weighted_sum(Tape& tape, std::string_view op, const Var& x, double weight) {
  Tensor total = Tensor::empty(x.value.memory(), DType::F64, {1});
  dispatch_activation(op, x.value.dtype(), [&]<class T>() {
    on_device(total, [&](const auto& device) {
      kernels::sum(device, x.value.data<T>(), x.value.numel(), total.mutable_data<double>());
    });
  });
  Var out = tape.output(as_loss(total, weight, x.value.dtype()), {&x});
  if (out.slot)
    tape.push({op, {x.slot}, [=, to = x.slot, slot = out.slot, like = outline(out.value), x_like = outline(x.value)] {
                 const Tensor dy = gradient(slot, like);
                 Tensor dx = empty_like(x_like);
                 dispatch_activation(op, dx.dtype(), [&]<class T>() {
                   on_device(dx, [&](const auto& device) {
                     kernels::fill(device, dy.data<T>(), weight, dx.mutable_data<T>(), dx.numel());
                   });
                 });
                 accumulate(to, dx);
               }});
  return out;
}

}  // namespace

Var sum(Tape& tape, const Var& x) { return weighted_sum(tape, "sum", x, 1); }

Var mean(Tape& tape, const Var& x, std::int64_t global_count) {
  return weighted_sum(tape, "mean", x, mean_weight("mean", x.value.numel(), global_count));
}

}  // namespace limbeck::core
