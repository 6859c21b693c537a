#include "core/ops/cut_rms_norm.h"

#include "kernels/cut_rms_norm.h"
#include "kernels/rms_norm.h"

namespace limbeck::core {

Var cut_rms_norm(Tape& tape, const Var& x, const Var& weight, std::int64_t total, double eps, nn::TensorComm& ranks) {
  check(x.shape().rank() == 2, "cut_rms_norm: x has shape {}, expected [T,C]", x.shape());
  const std::int64_t rows = x.shape()[0], width = x.shape()[1];
  const DType own = x.value.dtype(), sums = sum_dtype(own);
  check(weight.shape() == Shape{width} && weight.value.dtype() == sums,
        "cut_rms_norm: weight is {} {}, expected {} [{}] (x is {} {})", weight.value.dtype(), weight.shape(), sums,
        width, own, x.shape());
  check(width <= total, "cut_rms_norm: {} columns, expected at most the {} of all ranks", width, total);

  Tensor y = empty_like(x.value);
  Tensor squares = Tensor::empty(y.memory(), sums, {rows}), inverse_rms = empty_like(squares);
  dispatch_activation("cut_rms_norm", own, [&]<class T>() {
    using Sum = kernels::Acc<T>;
    on_device(y, [&](const auto& device) {
      kernels::row_squares(device, x.value.data<T>(), squares.mutable_data<Sum>(), rows, width);
    });
    ranks.sum(squares);
    on_device(y, [&](const auto& device) {
      kernels::cut_rms_norm(device, x.value.data<T>(), weight.value.data<Sum>(), squares.data<Sum>(),
                            y.mutable_data<T>(), inverse_rms.mutable_data<Sum>(), rows, width, total, eps);
    });
  });
  Var out = tape.output(std::move(y), {&x, &weight});
  if (!out.slot) return out;

  const Saved saved_x(x.value), saved_weight(weight.value), saved_r(inverse_rms);
  const auto input_part = [=, &ranks, slot = out.slot, like = outline(out.value), to = x.slot] {
    if (!to) return;
    const Tensor dy = gradient(slot, like);
    Tensor dots = Tensor::empty(dy.memory(), sums, {rows});
    GradientTarget dx = open_gradient(to, saved_x.get());
    dispatch_activation("cut_rms_norm", own, [&]<class T>() {
      using Sum = kernels::Acc<T>;
      const T* const values = saved_x.get().data<T>();
      const Sum* const factors = saved_weight.get().data<Sum>();
      on_device(dy, [&](const auto& device) {
        kernels::row_dots(device, values, factors, dy.data<T>(), dots.mutable_data<Sum>(), rows, width);
      });
      ranks.sum(dots);
      on_device(dy, [&](const auto& device) {
        kernels::cut_rms_norm_input_gradient(device, values, factors, saved_r.get().data<Sum>(), dots.data<Sum>(),
                                             dy.data<T>(), dx.beta != 0, dx.tensor.mutable_data<T>(), rows, width,
                                             total);
      });
    });
  };
  Tape::Step step{"cut_rms_norm", {x.slot}, input_part};
  if (weight.slot) {
    step.weight_slots = {weight.slot};
    step.weight_part = [=, slot = out.slot, like = outline(out.value), to = weight.slot] {
      const Tensor dy = gradient(slot, like);
      GradientTarget dweight = open_gradient(to, saved_weight.get());
      dispatch_activation("cut_rms_norm", own, [&]<class T>() {
        on_device(dy, [&](const auto& device) {
          using Sum = kernels::Acc<T>;
          kernels::rms_norm_weight_gradient(device, saved_x.get().data<T>(), saved_r.get().data<Sum>(), dy.data<T>(),
                                            dweight.beta != 0, dweight.tensor.mutable_data<Sum>(), rows, width);
        });
      });
    };
  }
  tape.push(std::move(step));
  return out;
}

}  // namespace limbeck::core
