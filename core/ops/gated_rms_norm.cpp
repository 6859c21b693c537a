#include "core/ops/gated_rms_norm.h"

#include "kernels/gated_rms_norm.h"

namespace limbeck::core {

Var gated_rms_norm(Tape& tape, const Var& y, const Var& z, const Var& weight, std::int64_t num_groups, double eps) {
  check(y.shape().rank() == 2, "gated_rms_norm: y has shape {}, expected [T,C]", y.shape());
  const std::int64_t rows = y.shape()[0], channels = y.shape()[1];
  const DType dtype = y.value.dtype(), sums = sum_dtype(dtype);
  check(z.shape() == y.shape() && z.value.dtype() == dtype, "gated_rms_norm: z is {} {}, expected {} {} as y",
        z.value.dtype(), z.shape(), dtype, y.shape());
  check(weight.shape() == Shape{channels} && weight.value.dtype() == sums,
        "gated_rms_norm: weight is {} {}, expected {} {} (y is {})", weight.value.dtype(), weight.shape(), sums,
        Shape{channels}, y.shape());
  check(num_groups > 0 && channels % num_groups == 0, "gated_rms_norm: {} groups do not divide {} channels", num_groups,
        channels);
  const std::int64_t width = channels / num_groups;

  Tensor u = empty_like(y.value);
  Tensor inverse_rms = Tensor::empty(u.memory(), sums, {rows, num_groups});
  dispatch_activation("gated_rms_norm", dtype, [&]<class T>() {
    using Sum = kernels::Acc<T>;
    on_device(u, [&](const auto& device) {
      kernels::gated_rms_norm(device, y.value.data<T>(), z.value.data<T>(), weight.value.data<Sum>(),
                              u.mutable_data<T>(), inverse_rms.mutable_data<Sum>(), rows, num_groups, width, eps);
    });
  });
  Var out = tape.output(std::move(u), {&y, &z, &weight});
  if (!out.slot) return out;

  const Saved saved_y(y.value), saved_z(z.value), saved_weight(weight.value), saved_r(inverse_rms);
  const auto input_part = [=, slot = out.slot, like = outline(out.value), to_y = y.slot, to_z = z.slot] {
    if (!to_y && !to_z) return;
    const Tensor du = gradient(slot, like);
    Tensor dy = empty_like(du), dz = empty_like(du);
    dispatch_activation("gated_rms_norm", dtype, [&]<class T>() {
      using Sum = kernels::Acc<T>;
      on_device(du, [&](const auto& device) {
        kernels::gated_rms_norm_input_gradient(device, saved_y.get().data<T>(), saved_z.get().data<T>(),
                                               saved_weight.get().data<Sum>(), saved_r.get().data<Sum>(), du.data<T>(),
                                               dy.mutable_data<T>(), dz.mutable_data<T>(), rows, num_groups, width);
      });
    });
    accumulate(to_y, dy);
    accumulate(to_z, dz);
  };
  const auto weight_part = [=, slot = out.slot, like = outline(out.value), to = weight.slot] {
    const Tensor du = gradient(slot, like);
    GradientTarget dweight = open_gradient(to, saved_weight.get());
    dispatch_activation("gated_rms_norm", dtype, [&]<class T>() {
      using Sum = kernels::Acc<T>;
      on_device(du, [&](const auto& device) {
        kernels::gated_rms_norm_weight_gradient(device, saved_y.get().data<T>(), saved_z.get().data<T>(),
                                                saved_r.get().data<Sum>(), du.data<T>(), dweight.beta != 0,
                                                dweight.tensor.mutable_data<Sum>(), rows, num_groups, width);
      });
    });
  };
  Tape::Step step{"gated_rms_norm", {y.slot, z.slot}, input_part};
  if (weight.slot) {
    step.weight_slots = {weight.slot};
    step.weight_part = weight_part;
  }
  tape.push(std::move(step));
  return out;
}

}  // namespace limbeck::core
