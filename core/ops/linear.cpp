#include "core/ops/linear.h"

#include "core/ops/add_bias.h"
#include "core/ops/fp8_product.h"
#include "core/ops/product.h"

namespace limbeck::core {
namespace {

constexpr std::string_view op = "linear";

/// c = a op(weight) + beta c
void multiply(Products products, const Tensor& a, Transpose transpose, const Tensor& weight, double beta, Tensor c) {
  if (products == Products::Fp8)
    fp8_product(op, a, transpose, weight, beta, c);
  else
    product(op, a, transpose, weight, beta, c);
}

Var times_weight(Tape& tape, const Var& x, const Var& weight, Products products) {
  check(x.shape().rank() == 2 && weight.shape().rank() == 2 && x.shape()[1] == weight.shape()[1],
        "linear: weight has shape {}, expected [out,{}] (x is {})", weight.shape(),
        x.shape().rank() == 2 ? x.shape()[1] : -1, x.shape());
  check_weight_dtype(op, weight.value, x.value.dtype());
  Tensor value = Tensor::empty(x.value.memory(), x.value.dtype(), {x.shape()[0], weight.shape()[0]});
  multiply(products, x.value, Transpose::Yes, weight.value, 0, value);
  Var y = tape.output(value, {&x, &weight});
  if (!y.slot) return y;

  Tape::Step step{op, {x.slot}, {}};
  if (x.slot)
    step.input_part = [=, in_slot = x.slot, out_slot = y.slot, x_like = outline(x.value), y_like = outline(value),
                       w = Saved(weight.value)] {
      GradientTarget dx = open_gradient(in_slot, x_like);
      multiply(products, gradient(out_slot, y_like), Transpose::No, w.get(), dx.beta, dx.tensor);
    };
  if (weight.slot) {
    step.weight_slots = {weight.slot};
    step.weight_part = [=, slot = weight.slot, out_slot = y.slot, input = Saved(x.value), y_like = outline(value),
                        w_like = outline(weight.value, sum_dtype(x.value.dtype()))] {
      GradientTarget dw = open_gradient(slot, w_like);
      weight_gradient(op, gradient(out_slot, y_like), input.get(), dw.beta, dw.tensor);
    };
  }
  tape.push(std::move(step));
  return y;
}

}  // namespace

Var linear(Tape& tape, const Var& x, const Var& weight, Products products, const std::optional<Var>& bias) {
  const Var y = times_weight(tape, x, weight, products);
  return bias ? add_bias(tape, y, *bias) : y;
}

}  // namespace limbeck::core
