#include "core/ops/rms_norm.h"

#include "core/ops/stream_types.h"
#include "kernels/rms_norm.h"

namespace limbeck::core {

Var rms_norm(Tape& tape, const Var& x, const Var& weight, double eps, std::optional<DType> dtype) {
  check(x.shape().rank() == 2, "rms_norm: x has shape {}, expected [T,C]", x.shape());
  const std::int64_t width = weight.shape().rank() == 1 ? weight.shape()[0] : -1;
  check(width == x.shape()[1] || (width > 0 && x.shape()[1] % width == 0),
        "rms_norm: weight has shape {}, expected [{}] (x is {})", weight.shape(), x.shape()[1], x.shape());
  const std::int64_t rows = width > 0 ? x.value.numel() / width : x.shape()[0];
  const DType own = x.value.dtype(), sums = sum_dtype(own), result = dtype.value_or(own);
  check(weight.value.dtype() == sums, "rms_norm: weight is {}, expected {} beside x of {}", weight.value.dtype(), sums,
        own);
  check(is_beside(result, own), "rms_norm: result is {}, expected {} as x{}", result, own,
        own == DType::F32 ? ", or bfloat16" : "");

  Tensor y = Tensor::empty(x.value.memory(), result, x.shape());
  Tensor inverse_rms = Tensor::empty(y.memory(), sums, {rows});
  dispatch_stream("rms_norm", own, result, [&]<class X, class Y>() {
    using Sum = kernels::Acc<X>;
    on_device(y, [&](const auto& device) {
      kernels::rms_norm(device, x.value.data<X>(), weight.value.data<Sum>(), y.mutable_data<Y>(),
                        inverse_rms.mutable_data<Sum>(), rows, width, eps);
    });
  });
  Var out = tape.output(std::move(y), {&x, &weight});
  if (!out.slot) return out;

  const Saved saved_x(x.value), saved_weight(weight.value), saved_r(inverse_rms);
  const auto input_part = [=, slot = out.slot, like = outline(out.value), to = x.slot] {
    if (!to) return;
    const Tensor dy = gradient(slot, like);
    GradientTarget dx = open_gradient(to, saved_x.get());
    dispatch_stream("rms_norm", own, result, [&]<class X, class Y>() {
      using Sum = kernels::Acc<X>;
      on_device(dy, [&](const auto& device) {
        kernels::rms_norm_input_gradient(device, saved_x.get().data<X>(), saved_weight.get().data<Sum>(),
                                         saved_r.get().data<Sum>(), dy.data<Y>(), dx.beta != 0,
                                         dx.tensor.mutable_data<X>(), rows, width);
      });
    });
  };
  const auto weight_part = [=, slot = out.slot, like = outline(out.value), to = weight.slot] {
    const Tensor dy = gradient(slot, like);
    GradientTarget dweight = open_gradient(to, saved_weight.get());
    dispatch_stream("rms_norm", own, result, [&]<class X, class Y>() {
      using Sum = kernels::Acc<X>;
      on_device(dy, [&](const auto& device) {
        kernels::rms_norm_weight_gradient(device, saved_x.get().data<X>(), saved_r.get().data<Sum>(), dy.data<Y>(),
                                          dweight.beta != 0, dweight.tensor.mutable_data<Sum>(), rows, width);
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
