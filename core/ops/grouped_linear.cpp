#include "core/ops/grouped_linear.h"

#include "core/ops/packed_weight.h"
#include "core/ops/product.h"
#include "kernels/grouped_matmul.h"

namespace limbeck::core {
namespace {

constexpr std::string_view op = "grouped_linear";

/// Rows that belong to no expert become 0.
void clear_ungrouped(Tensor y, const Tensor& offsets) {
  dispatch_activation(op, y.dtype(), [&]<class T>() {
    on_device(y, [&](const auto& device) {
      kernels::clear_ungrouped_rows(device, offsets.numel() - 1, offsets.data<std::int64_t>(), y.shape()[0],
                                    y.shape()[1], y.mutable_data<T>());
    });
  });
}

/// y = rows op(W) + beta y by groups, of bfloat16.
void packed_product(const Tensor& rows, Transpose transpose, const Tensor& weight, const Tensor& offsets, double beta,
                    Tensor y) {
  const Factor packed = packed_weight(weight, transpose);
  on_device(y, [&](const auto& device) {
    kernels::packed_grouped_matmul(device, weight.shape()[0], y.shape()[1], rows.shape()[1],
                                   offsets.data<std::int64_t>(), rows.data<bf16>(), packed.factor,
                                   static_cast<float>(beta), y.mutable_data<bf16>());
  });
}

void forward_product(const Tensor& rows, const Tensor& weight, const Tensor& offsets, Tensor y) {
  if (const auto blocks = blocks_of(weight)) {
    on_device(y, [&](const auto& device) {
      const auto run = [&]<class T>(const T* x, T* to) {
        kernels::blocks_grouped_matmul(device, weight.shape()[0], weight.shape()[1], weight.shape()[2],
                                       offsets.data<std::int64_t>(), x, *blocks, 0.F, to);
      };
      if (y.dtype() == DType::BF16)
        run(rows.data<bf16>(), y.mutable_data<bf16>());
      else
        run(rows.data<float>(), y.mutable_data<float>());
    });
    return;
  }
  if (rows.dtype() == DType::BF16) return packed_product(rows, Transpose::Yes, weight, offsets, 0, y);
  dispatch_float(op, rows.dtype(), [&]<class T>() {
    on_device(y, [&](const auto& device) {
      with_weight<T>(weight, [&](const auto* w) {
        kernels::grouped_matmul(device, weight.shape()[0], weight.shape()[2], weight.shape()[1],
                                offsets.data<std::int64_t>(), rows.data<T>(), w, T(0), y.mutable_data<T>());
      });
    });
  });
}

void input_product(const Tensor& dy, const Tensor& weight, const Tensor& offsets, double beta, Tensor dx) {
  if (blocks_of(weight)) return input_product(dy, expanded(weight), offsets, beta, dx);
  if (dy.dtype() == DType::BF16) return packed_product(dy, Transpose::No, weight, offsets, beta, dx);
  dispatch_float(op, dy.dtype(), [&]<class T>() {
    on_device(dy, [&](const auto& device) {
      with_weight<T>(weight, [&](const auto* w) {
        kernels::grouped_matmul_input(device, weight.shape()[0], weight.shape()[2], weight.shape()[1],
                                      offsets.data<std::int64_t>(), dy.data<T>(), w, static_cast<T>(beta),
                                      dx.mutable_data<T>());
      });
    });
  });
}

}  // namespace

Tensor grouped_transposed(const Tensor& rows, const Tensor& weight, const Tensor& offsets) {
  check(rows.shape().rank() == 2 && weight.shape().rank() == 3 && rows.shape()[1] == weight.shape()[1] &&
            offsets.shape() == Shape{weight.shape()[0] + 1} && offsets.dtype() == DType::I64,
        "grouped_transposed: rows {}, weight {} and offsets {} {} do not fit", rows.shape(), weight.shape(),
        offsets.dtype(), offsets.shape());
  check_weight_dtype("grouped_transposed", weight, rows.dtype());
  Tensor out = Tensor::empty(rows.memory(), rows.dtype(), {rows.shape()[0], weight.shape()[2]});
  clear_ungrouped(out, offsets);
  input_product(rows, weight, offsets, 0, out);
  return out;
}

// R is an upper bound: rows that belong to no expert are cleared first, for kernels leave them as they are.
Var grouped_linear(Tape& tape, const Var& rows, const Var& weight, const Tensor& offsets) {
  check(rows.shape().rank() == 2 && weight.shape().rank() == 3 && rows.shape()[1] == weight.shape()[2],
        "grouped_linear: weight has shape {}, expected [E,out,{}] (rows are {})", weight.shape(),
        rows.shape().rank() == 2 ? rows.shape()[1] : -1, rows.shape());
  check_weight_dtype(op, weight.value, rows.value.dtype());
  const std::int64_t experts = weight.shape()[0];
  const std::int64_t out = weight.shape()[1];
  const std::int64_t in = weight.shape()[2];
  check(offsets.shape() == Shape{experts + 1} && offsets.dtype() == DType::I64,
        "grouped_linear: offsets are {} {}, expected int64 [{}]", offsets.dtype(), offsets.shape(), experts + 1);
  const std::int64_t num_rows = rows.shape()[0];
  Tensor value = Tensor::empty(rows.value.memory(), rows.value.dtype(), {num_rows, out});
  clear_ungrouped(value, offsets);
  forward_product(rows.value, weight.value, offsets, value);
  Var y = tape.output(value, {&rows, &weight});
  if (!y.slot) return y;

  Tape::Step step{op, {rows.slot}, {}};
  if (rows.slot)
    step.input_part = [=, in_slot = rows.slot, out_slot = y.slot, like = outline(rows.value), y_like = outline(value),
                       w = Saved(weight.value), o = Saved(offsets)] {
      GradientTarget dx = open_gradient(in_slot, like);
      if (dx.beta == 0) clear_ungrouped(dx.tensor, o.get());
      input_product(gradient(out_slot, y_like), w.get(), o.get(), dx.beta, dx.tensor);
    };
  if (weight.slot) {
    step.weight_slots = {weight.slot};
    step.weight_part = [=, slot = weight.slot, out_slot = y.slot,
                        like = outline(weight.value, sum_dtype(value.dtype())), y_like = outline(value),
                        input = Saved(rows.value), o = Saved(offsets)] {
      GradientTarget dw = open_gradient(slot, like);
      const Tensor dy = gradient(out_slot, y_like);
      dispatch_activation(op, dy.dtype(), [&]<class T>() {
        using Sum = kernels::Acc<T>;
        on_device(dy, [&](const auto& device) {
          kernels::grouped_matmul_weight(device, experts, in, out, o.get().template data<std::int64_t>(), dy.data<T>(),
                                         input.get().template data<T>(), static_cast<Sum>(dw.beta),
                                         dw.tensor.mutable_data<Sum>());
        });
      });
    };
  }
  tape.push(std::move(step));
  return y;
}

}  // namespace limbeck::core
