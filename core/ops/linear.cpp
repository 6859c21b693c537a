#include "core/ops/linear.h"

#include "kernels/matmul.h"

namespace limbeck::core {
namespace {

using kernels::Transpose;

/// C [m,n] = op(A) op(B) + beta C, where B may be bfloat16.
void product(Transpose ta, Transpose tb, std::int64_t m, std::int64_t n, std::int64_t k, const Tensor& a,
             const Tensor& b, double beta, Tensor& c) {
  dispatch_float("linear", a.dtype(), [&]<class T>() {
    on_device(a, [&](const auto& device) {
      const auto run = [&](const auto* b_data) {
        kernels::matmul(device, ta, tb, m, n, k, a.data<T>(), b_data, static_cast<T>(beta), c.mutable_data<T>());
      };
      if (b.dtype() == DType::BF16)
        run(b.data<bf16>());
      else
        run(b.data<T>());
    });
  });
}

}  // namespace

Var linear(Tape& tape, const Var& x, const Var& weight) {
  check(x.shape().rank() == 2 && weight.shape().rank() == 2 && x.shape()[1] == weight.shape()[1],
        "linear: weight has shape {}, expected [out,{}] (x is {})", weight.shape(),
        x.shape().rank() == 2 ? x.shape()[1] : -1, x.shape());
  check(weight.value.dtype() == x.value.dtype() || weight.value.dtype() == DType::BF16,
        "linear: weight is {}, expected {} or bfloat16", weight.value.dtype(), x.value.dtype());
  const std::int64_t rows = x.shape()[0];
  const std::int64_t in = x.shape()[1];
  const std::int64_t out = weight.shape()[0];
  Tensor value = Tensor::empty(x.value.memory(), x.value.dtype(), {rows, out});
  product(Transpose::No, Transpose::Yes, rows, out, in, x.value, weight.value, 0, value);
  Var y = tape.output(value, {&x, &weight});
  if (!y.slot) return y;

  Tape::Step step{"linear", {x.slot}, {}};
  if (x.slot)
    step.input_part = [=, in_slot = x.slot, out_slot = y.slot, x_like = outline(x.value), y_like = outline(value),
                       w = Saved(weight.value)] {
      GradientTarget dx = open_gradient(in_slot, x_like);
      product(Transpose::No, Transpose::No, rows, in, out, gradient(out_slot, y_like), w.get(), dx.beta, dx.tensor);
    };
  if (weight.slot) {
    step.weight_slots = {weight.slot};
    step.weight_part = [=, slot = weight.slot, out_slot = y.slot, input = Saved(x.value), y_like = outline(value),
                        w_like = outline(weight.value, x.value.dtype())] {
      GradientTarget dw = open_gradient(slot, w_like);
      product(Transpose::Yes, Transpose::No, out, in, rows, gradient(out_slot, y_like), input.get(), dw.beta,
              dw.tensor);
    };
  }
  tape.push(std::move(step));
  return y;
}

}  // namespace limbeck::core
