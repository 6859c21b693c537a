#include "core/ops/linear.h"

#include <utility>

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

}  // namespace

void linear_rows(const Tensor& x, const Tensor& weight, Products products, Tensor y) {
  check(x.shape().rank() == 2 && weight.shape().rank() == 2 && x.shape()[1] == weight.shape()[1],
        "linear: weight has shape {}, expected [out,{}] (x is {})", weight.shape(),
        x.shape().rank() == 2 ? x.shape()[1] : -1, x.shape());
  check_weight_dtype(op, weight, x.dtype());
  multiply(products, x, Transpose::Yes, weight, 0, std::move(y));
}

void linear_rows_back(const Tensor& dy, const Tensor& weight, Products products, double beta, Tensor dx) {
  multiply(products, dy, Transpose::No, weight, beta, std::move(dx));
}

void push_linear(Tape& tape, const Var& x, const Var& weight, Products products, const SlotPtr& slot, const Tensor& y) {
  Tape::Step step{op, {x.slot}, {}};
  if (x.slot)
    step.input_part = [products, in_slot = x.slot, out_slot = slot, x_like = outline(x.value), y_like = outline(y),
                       w = Saved(weight.value)] {
      GradientTarget dx = open_gradient(in_slot, x_like);
      linear_rows_back(gradient(out_slot, y_like), w.get(), products, dx.beta, dx.tensor);
    };
  if (weight.slot) {
    step.weight_slots = {weight.slot};
    step.weight_part = [to = weight.slot, out_slot = slot, input = Saved(x.value), y_like = outline(y),
                        w_like = outline(weight.value, sum_dtype(x.value.dtype()))] {
      GradientTarget dw = open_gradient(to, w_like);
      weight_gradient(op, gradient(out_slot, y_like), input.get(), dw.beta, dw.tensor);
    };
  }
  tape.push(std::move(step));
}

Var linear(Tape& tape, const Var& x, const Var& weight, Products products, const std::optional<Var>& bias) {
  Tensor value = Tensor::empty(x.value.memory(), x.value.dtype(), {x.shape()[0], weight.shape()[0]});
  linear_rows(x.value, weight.value, products, value);
  const Var y = tape.output(std::move(value), {&x, &weight});
  if (y.slot) push_linear(tape, x, weight, products, y.slot, y.value);
  return bias ? add_bias(tape, y, *bias) : y;
}

}  // namespace limbeck::core
