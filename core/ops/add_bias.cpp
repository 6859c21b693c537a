#include "core/ops/add_bias.h"

#include "kernels/bias.h"

namespace limbeck::core {

Var add_bias(Tape& tape, const Var& x, const Var& bias) {
  check(x.shape().rank() == 2, "add_bias: x has shape {}, expected [T,C]", x.shape());
  const std::int64_t rows = x.shape()[0], width = x.shape()[1];
  check(bias.shape() == Shape{width}, "add_bias: bias has shape {}, expected [{}] (x is {})", bias.shape(), width,
        x.shape());
  const DType dtype = x.value.dtype(), sums = sum_dtype(dtype);
  check(bias.value.dtype() == sums, "add_bias: bias is {}, expected {} beside x of {}", bias.value.dtype(), sums,
        dtype);
  Tensor y = empty_like(x.value);
  dispatch_activation("add_bias", dtype, [&]<class T>() {
    on_device(y, [&](const auto& device) {
      kernels::add_bias(device, x.value.data<T>(), bias.value.data<kernels::Acc<T>>(), y.mutable_data<T>(), rows,
                        width);
    });
  });
  Var out = tape.output(std::move(y), {&x, &bias});
  if (!out.slot) return out;

  Tape::Step step{"add_bias", {x.slot}, [slot = out.slot, like = outline(out.value), to = x.slot] {
                    if (to) accumulate(to, gradient(slot, like));
                  }};
  if (bias.slot) {
    step.weight_slots = {bias.slot};
    step.weight_part = [=, slot = out.slot, like = outline(out.value), to = bias.slot,
                        bias_like = outline(bias.value)] {
      const Tensor dy = gradient(slot, like);
      GradientTarget dbias = open_gradient(to, bias_like);
      dispatch_activation("add_bias", dtype, [&]<class T>() {
        on_device(dy, [&](const auto& device) {
          kernels::column_sums(device, dy.data<T>(), dbias.beta != 0, dbias.tensor.mutable_data<kernels::Acc<T>>(),
                               rows, width);
        });
      });
    };
  }
  tape.push(std::move(step));
  return out;
}

}  // namespace limbeck::core
