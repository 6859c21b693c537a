#include "core/ops/rms_norm.h"

#include "kernels/rms_norm.h"

namespace limbeck::core {

Var rms_norm(Tape& tape, const Var& x, const Var& weight, double eps) {
  check(x.shape().rank() == 2, "rms_norm: x has shape {}, expected [T,C]", x.shape());
  const std::int64_t rows = x.shape()[0], width = x.shape()[1];
  check(weight.shape() == Shape{width}, "rms_norm: weight has shape {}, expected [{}] (x is {})", weight.shape(), width,
        x.shape());
  check(weight.value.dtype() == x.value.dtype(), "rms_norm: weight is {}, expected {} as x", weight.value.dtype(),
        x.value.dtype());

  Tensor y = empty_like(x.value);
  Tensor inverse_rms = Tensor::empty(y.memory(), y.dtype(), {rows});
  dispatch_float("rms_norm", y.dtype(), [&]<class T>() {
    on_device(y, [&](const auto& device) {
      kernels::rms_norm(device, x.value.data<T>(), weight.value.data<T>(), y.mutable_data<T>(),
                        inverse_rms.mutable_data<T>(), rows, width, eps);
    });
  });
  Var out = tape.output(std::move(y), {&x, &weight});
  if (!out.slot) return out;

  const Saved saved_x(x.value), saved_weight(weight.value), saved_r(inverse_rms);
  const auto input_part = [=, slot = out.slot, like = outline(out.value), to = x.slot] {
    if (!to) return;
    const Tensor dy = gradient(slot, like);
    GradientTarget dx = open_gradient(to, saved_x.get());
    dispatch_float("rms_norm", dy.dtype(), [&]<class T>() {
      on_device(dy, [&](const auto& device) {
        kernels::rms_norm_input_gradient(device, saved_x.get().data<T>(), saved_weight.get().data<T>(),
                                         saved_r.get().data<T>(), dy.data<T>(), dx.beta != 0,
                                         dx.tensor.mutable_data<T>(), rows, width);
      });
    });
  };
  const auto weight_part = [=, slot = out.slot, like = outline(out.value), to = weight.slot] {
    const Tensor dy = gradient(slot, like);
    GradientTarget dweight = open_gradient(to, saved_weight.get());
    dispatch_float("rms_norm", dy.dtype(), [&]<class T>() {
      on_device(dy, [&](const auto& device) {
        kernels::rms_norm_weight_gradient(device, saved_x.get().data<T>(), saved_r.get().data<T>(), dy.data<T>(),
                                          dweight.beta != 0, dweight.tensor.mutable_data<T>(), rows, width);
      });
    });
  };
  Tape::Step step{"rms_norm", {x.slot}, input_part};
  if (weight.slot) {
    step.weight_slots = {weight.slot};
    step.weight_part = weight_part;
  }
  tape.push(std::move(step));
  return out;
}

}  // namespace limbeck::core
