#include "core/ops/add_grouped_bias.h"

#include "kernels/grouped_bias.h"

namespace limbeck::core {

Var add_grouped_bias(Tape& tape, const Var& x, const Var& bias, const Tensor& offsets, std::int64_t first) {
  check(x.shape().rank() == 2, "add_grouped_bias: x has shape {}, expected [R,C]", x.shape());
  const std::int64_t rows = x.shape()[0], width = x.shape()[1];
  check(bias.shape().rank() == 2 && first >= 0 && first <= width && bias.shape()[1] <= width - first,
        "add_grouped_bias: bias has shape {}, expected [E,C'] of columns from {} on (x is {})", bias.shape(), first,
        x.shape());
  const std::int64_t experts = bias.shape()[0], columns = bias.shape()[1];
  const DType dtype = x.value.dtype(), sums = sum_dtype(dtype);
  check(bias.value.dtype() == sums, "add_grouped_bias: bias is {}, expected {} beside x of {}", bias.value.dtype(),
        sums, dtype);
  check(offsets.shape() == Shape{experts + 1} && offsets.dtype() == DType::I64,
        "add_grouped_bias: offsets are {} {}, expected int64 [{}]", offsets.dtype(), offsets.shape(), experts + 1);
  const auto shape_of = [=](const Tensor& at) {
    return kernels::GroupedRows{experts, at.data<std::int64_t>(), rows, width, first, columns};
  };
  Tensor y = empty_like(x.value);
  dispatch_activation("add_grouped_bias", dtype, [&]<class T>() {
    on_device(y, [&](const auto& device) {
      kernels::add_grouped_bias(device, x.value.data<T>(), bias.value.data<kernels::Acc<T>>(), y.mutable_data<T>(),
                                shape_of(offsets));
    });
  });
  Var out = tape.output(std::move(y), {&x, &bias});
  if (!out.slot) return out;

  Tape::Step step{"add_grouped_bias", {x.slot}, [slot = out.slot, like = outline(out.value), to = x.slot] {
                    if (to) accumulate(to, gradient(slot, like));
                  }};
  if (bias.slot) {
    step.weight_slots = {bias.slot};
    step.weight_part = [=, slot = out.slot, like = outline(out.value), to = bias.slot, bias_like = outline(bias.value),
                        at = Saved(offsets)] {
      const Tensor dy = gradient(slot, like);
      GradientTarget dbias = open_gradient(to, bias_like);
      dispatch_activation("add_grouped_bias", dtype, [&]<class T>() {
        on_device(dy, [&](const auto& device) {
          kernels::grouped_column_sums(device, dy.data<T>(), dbias.beta != 0,
                                       dbias.tensor.mutable_data<kernels::Acc<T>>(), shape_of(at.get()));
        });
      });
    };
  }
  tape.push(std::move(step));
  return out;
}

}  // namespace limbeck::core
