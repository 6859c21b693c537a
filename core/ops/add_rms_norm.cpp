#include "core/ops/add_rms_norm.h"

#include "core/ops/stream_types.h"
#include "kernels/add_rms_norm.h"

namespace limbeck::core {
namespace {

void check_inputs(const Var& x, const Var& delta, const Var& weight) {
  check(x.shape().rank() == 2, "add_rms_norm: x has shape {}, expected [T,C]", x.shape());
  check(delta.shape() == x.shape(), "add_rms_norm: delta has shape {}, expected {} as x", delta.shape(), x.shape());
  check(weight.shape() == Shape{x.shape()[1]}, "add_rms_norm: weight has shape {}, expected [{}] (x is {})",
        weight.shape(), x.shape()[1], x.shape());
  const DType own = x.value.dtype(), other = delta.value.dtype();
  check(is_beside(other, own), "add_rms_norm: delta is {}, expected {} as x{}", other, own,
        own == DType::F32 ? ", or bfloat16" : "");
  check(weight.value.dtype() == sum_dtype(own), "add_rms_norm: weight is {}, expected {} beside x of {}",
        weight.value.dtype(), sum_dtype(own), own);
}

/// What the backward reads.
struct Kept {
  Saved sum, weight, inverse_rms;
};

/// Completes dsum and writes ddelta, if it is defined. Gives what weight_gradient adds up; undefined without it.
Tensor input_gradients(const Kept& kept, const Tensor& dy, GradientTarget& dsum, Tensor& ddelta, bool with_weight) {
  const Tensor& sum = kept.sum.get();
  const std::int64_t rows = sum.shape()[0], width = sum.shape()[1];
  Tensor parts;
  if (with_weight) {
    const std::int64_t count =
        on_device(dy, [&](const auto& device) { return kernels::add_rms_norm_parts(device, rows); });
    parts = Tensor::empty(dy.memory(), sum_dtype(sum.dtype()), {count, width});
  }
  dispatch_stream("add_rms_norm", sum.dtype(), dy.dtype(), [&]<class X, class Y>() {
    using Sum = kernels::Acc<X>;
    on_device(dy, [&](const auto& device) {
      kernels::add_rms_norm_gradient(
          device, sum.data<X>(), kept.weight.get().data<Sum>(), kept.inverse_rms.get().data<Sum>(), dy.data<Y>(),
          dsum.beta != 0, dsum.tensor.mutable_data<X>(), ddelta.defined() ? ddelta.mutable_data<Y>() : nullptr,
          with_weight ? parts.mutable_data<Sum>() : nullptr, rows, width);
    });
  });
  return parts;
}

void weight_gradient(const Tensor& parts, std::int64_t rows, GradientTarget dweight) {
  dispatch_float("add_rms_norm", parts.dtype(), [&]<class T>() {
    on_device(parts, [&](const auto& device) {
      kernels::add_rms_norm_weight_gradient(device, parts.data<T>(), dweight.beta != 0,
                                            dweight.tensor.mutable_data<T>(), rows, parts.shape()[1]);
    });
  });
}

}  // namespace

NormedSum add_rms_norm(Tape& tape, const Var& x, Var delta, const Var& weight, double eps) {
  check_inputs(x, delta, weight);
  const std::int64_t rows = x.shape()[0], width = x.shape()[1];
  const DType own = x.value.dtype(), other = delta.value.dtype(), sums = sum_dtype(own);

  Tensor y = empty_like(delta.value);
  Tensor inverse_rms = Tensor::empty(y.memory(), sums, {rows});
  Tensor sum = own == other && delta.value.is_sole_owner() ? delta.value : empty_like(x.value);
  dispatch_stream("add_rms_norm", own, other, [&]<class X, class Y>() {
    using Sum = kernels::Acc<X>;
    on_device(y, [&](const auto& device) {
      kernels::add_rms_norm(device, x.value.data<X>(), delta.value.data<Y>(), weight.value.data<Sum>(),
                            sum.mutable_data<X>(), y.mutable_data<Y>(), inverse_rms.mutable_data<Sum>(), rows, width,
                            eps);
    });
  });
  NormedSum out{tape.output(std::move(sum), {&x, &delta}), tape.output(std::move(y), {&x, &delta, &weight})};
  if (!out.normed.slot) return out;

  const Kept kept{out.sum.value, weight.value, inverse_rms};
  tape.push({"add_rms_norm",
             {x.slot, delta.slot, weight.slot},
             [=, sum_slot = out.sum.slot, slot = out.normed.slot, like = outline(out.normed.value), to_x = x.slot,
              to_delta = delta.slot, to_weight = weight.slot] {
               const Tensor dy = gradient(slot, like);
               const Tensor& like_sum = kept.sum.get();
               // No slot: the weight alone is trained.
               GradientTarget dsum =
                   sum_slot ? open_gradient(sum_slot, like_sum) : GradientTarget{empty_like(like_sum)};
               Tensor ddelta = own == other ? Tensor() : empty_like(dy);
               const Tensor parts = input_gradients(kept, dy, dsum, ddelta, to_weight != nullptr);
               if (to_weight) weight_gradient(parts, rows, open_gradient(to_weight, kept.weight.get()));
               accumulate(to_x, dsum.tensor);
               accumulate(to_delta, ddelta.defined() ? ddelta : dsum.tensor);
             }});
  return out;
}

}  // namespace limbeck::core
