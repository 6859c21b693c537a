#include "core/ops/grouped_linear.h"

#include "core/ops/product.h"
#include "kernels/grouped_matmul.h"

namespace limbeck::core {

// R is an upper bound: rows that belong to no expert are cleared first, for kernels leave them as they are.
Var grouped_linear(Tape& tape, const Var& rows, const Var& weight, const Tensor& offsets) {
  check(rows.shape().rank() == 2 && weight.shape().rank() == 3 && rows.shape()[1] == weight.shape()[2],
        "grouped_linear: weight has shape {}, expected [E,out,{}] (rows are {})", weight.shape(),
        rows.shape().rank() == 2 ? rows.shape()[1] : -1, rows.shape());
  check_weight_dtype("grouped_linear", weight.value, rows.value.dtype());
  const std::int64_t experts = weight.shape()[0];
  const std::int64_t out = weight.shape()[1];
  const std::int64_t in = weight.shape()[2];
  check(offsets.shape() == Shape{experts + 1} && offsets.dtype() == DType::I64,
        "grouped_linear: offsets are {} {}, expected int64 [{}]", offsets.dtype(), offsets.shape(), experts + 1);
  const std::int64_t num_rows = rows.shape()[0];
  Tensor value = Tensor::empty(rows.value.memory(), rows.value.dtype(), {num_rows, out});
  dispatch_float("grouped_linear", value.dtype(), [&]<class T>() {
    on_device(value, [&](const auto& device) {
      kernels::clear_ungrouped_rows(device, experts, offsets.data<std::int64_t>(), num_rows, out,
                                    value.mutable_data<T>());
      with_weight<T>(weight.value, [&](const auto* w) {
        kernels::grouped_matmul(device, experts, in, out, offsets.data<std::int64_t>(), rows.value.data<T>(), w, T(0),
                                value.mutable_data<T>());
      });
    });
  });
  Var y = tape.output(value, {&rows, &weight});
  if (!y.slot) return y;

  Tape::Step step{"grouped_linear", {rows.slot}, {}};
  if (rows.slot)
    step.input_part = [=, in_slot = rows.slot, out_slot = y.slot, like = outline(rows.value), y_like = outline(value),
                       w = Saved(weight.value), o = Saved(offsets)] {
      GradientTarget dx = open_gradient(in_slot, like);
      const Tensor dy = gradient(out_slot, y_like);
      dispatch_float("grouped_linear", dy.dtype(), [&]<class T>() {
        on_device(dy, [&](const auto& device) {
          if (dx.beta == 0)
            kernels::clear_ungrouped_rows(device, experts, o.get().template data<std::int64_t>(), num_rows, in,
                                          dx.tensor.mutable_data<T>());
          with_weight<T>(w.get(), [&](const auto* values) {
            kernels::grouped_matmul_input(device, experts, in, out, o.get().template data<std::int64_t>(), dy.data<T>(),
                                          values, static_cast<T>(dx.beta), dx.tensor.mutable_data<T>());
          });
        });
      });
    };
  if (weight.slot) {
    step.weight_slots = {weight.slot};
    step.weight_part = [=, slot = weight.slot, out_slot = y.slot, like = outline(weight.value, value.dtype()),
                        y_like = outline(value), input = Saved(rows.value), o = Saved(offsets)] {
      GradientTarget dw = open_gradient(slot, like);
      const Tensor dy = gradient(out_slot, y_like);
      dispatch_float("grouped_linear", dy.dtype(), [&]<class T>() {
        on_device(dy, [&](const auto& device) {
          kernels::grouped_matmul_weight(device, experts, in, out, o.get().template data<std::int64_t>(), dy.data<T>(),
                                         input.get().template data<T>(), static_cast<T>(dw.beta),
                                         dw.tensor.mutable_data<T>());
        });
      });
    };
  }
  tape.push(std::move(step));
  return y;
}

}  // namespace limbeck::core
