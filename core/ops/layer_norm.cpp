#include "core/ops/layer_norm.h"

#include "core/ops/stream_types.h"
#include "kernels/bias.h"
#include "kernels/layer_norm.h"

namespace limbeck::core {

Var layer_norm(Tape& tape, const Var& x, const Var& weight, const Var& bias, double eps, std::optional<DType> dtype) {
  check(x.shape().rank() == 2, "layer_norm: x has shape {}, expected [T,C]", x.shape());
  const std::int64_t rows = x.shape()[0], width = x.shape()[1];
  const DType own = x.value.dtype(), sums = sum_dtype(own), result = dtype.value_or(own);
  for (const auto& [name, row] : {std::pair{"weight", &weight}, {"bias", &bias}}) {
    check(row->shape() == Shape{width}, "layer_norm: {} has shape {}, expected [{}] (x is {})", name, row->shape(),
          width, x.shape());
    check(row->value.dtype() == sums, "layer_norm: {} is {}, expected {} beside x of {}", name, row->value.dtype(),
          sums, own);
  }
  check(is_beside(result, own), "layer_norm: result is {}, expected {} as x{}", result, own,
        own == DType::F32 ? ", or bfloat16" : "");

  Tensor y = Tensor::empty(x.value.memory(), result, x.shape());
  Tensor mean = Tensor::empty(y.memory(), sums, {rows}), inverse_deviation = empty_like(mean);
  dispatch_stream("layer_norm", own, result, [&]<class X, class Y>() {
    using Sum = kernels::Acc<X>;
    on_device(y, [&](const auto& device) {
      kernels::layer_norm(device, x.value.data<X>(), weight.value.data<Sum>(), bias.value.data<Sum>(),
                          y.mutable_data<Y>(), mean.mutable_data<Sum>(), inverse_deviation.mutable_data<Sum>(), rows,
                          width, eps);
    });
  });
  Var out = tape.output(std::move(y), {&x, &weight, &bias});
  if (!out.slot) return out;

  const Saved saved_x(x.value), saved_weight(weight.value), saved_mean(mean), saved_r(inverse_deviation);
  const auto input_part = [=, slot = out.slot, like = outline(out.value), to = x.slot] {
    if (!to) return;
    const Tensor dy = gradient(slot, like);
    GradientTarget dx = open_gradient(to, saved_x.get());
    dispatch_stream("layer_norm", own, result, [&]<class X, class Y>() {
      using Sum = kernels::Acc<X>;
      on_device(dy, [&](const auto& device) {
        kernels::layer_norm_input_gradient(device, saved_x.get().data<X>(), saved_weight.get().data<Sum>(),
                                           saved_mean.get().data<Sum>(), saved_r.get().data<Sum>(), dy.data<Y>(),
                                           dx.beta != 0, dx.tensor.mutable_data<X>(), rows, width);
      });
    });
  };
  const auto weight_part = [=, slot = out.slot, like = outline(out.value), to_weight = weight.slot,
                            to_bias = bias.slot] {
    const Tensor dy = gradient(slot, like);
    std::optional<GradientTarget> dweight, dbias;
    if (to_weight) dweight = open_gradient(to_weight, saved_weight.get());
    if (to_bias) dbias = open_gradient(to_bias, saved_weight.get());
    dispatch_stream("layer_norm", own, result, [&]<class X, class Y>() {
      using Sum = kernels::Acc<X>;
      on_device(dy, [&](const auto& device) {
        if (dweight)
          kernels::layer_norm_weight_gradient(device, saved_x.get().data<X>(), saved_mean.get().data<Sum>(),
                                              saved_r.get().data<Sum>(), dy.data<Y>(), dweight->beta != 0,
                                              dweight->tensor.mutable_data<Sum>(), rows, width);
        if (dbias)
          kernels::column_sums(device, dy.data<Y>(), dbias->beta != 0, dbias->tensor.mutable_data<Sum>(), rows, width);
      });
    });
  };
  Tape::Step step{"layer_norm", {x.slot}, input_part};
  for (const SlotPtr& slot : {weight.slot, bias.slot})
    if (slot) step.weight_slots.push_back(slot);
  if (!step.weight_slots.empty()) step.weight_part = weight_part;
  tape.push(std::move(step));
  return out;
}

}  // namespace limbeck::core
