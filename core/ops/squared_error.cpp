#include "core/ops/squared_error.h"

#include "core/ops/loss_value.h"
#include "kernels/elementwise.h"
#include "kernels/sums.h"

namespace limbeck::core {
namespace {

constexpr std::string_view op = "mean_squared_error";

/// weight * factor[0] * (a - b).
Tensor scaled_difference(const Tensor& a, const Tensor& b, const Tensor& factor, double weight) {
  Tensor y = empty_like(a);
  dispatch_activation(op, y.dtype(), [&]<class T>() {
    on_device(y, [&](const auto& device) {
      kernels::scaled_difference(device, a.data<T>(), b.data<T>(), factor.data<T>(), weight, y.mutable_data<T>(),
                                 y.numel());
    });
  });
  return y;
}

}  // namespace

Var mean_squared_error(Tape& tape, const Var& a, const Var& b, std::int64_t global_count) {
  check(a.shape() == b.shape(), "{}: b has shape {}, expected {} as a", op, b.shape(), a.shape());
  check(a.value.dtype() == b.value.dtype(), "{}: b is {}, expected {} as a", op, b.value.dtype(), a.value.dtype());
  const double weight = mean_weight(op, a.value.numel(), global_count);
  Tensor total = Tensor::empty(a.value.memory(), DType::F64, {1});
  dispatch_activation(op, a.value.dtype(), [&]<class T>() {
    on_device(total, [&](const auto& device) {
      kernels::sum_of_squared_differences(device, a.value.data<T>(), b.value.data<T>(), a.value.numel(),
                                          total.mutable_data<double>());
    });
  });
  Var out = tape.output(as_loss(total, weight, a.value.dtype()), {&a, &b});
  if (out.slot)
    tape.push({op,
               {a.slot, b.slot},
               [=, da = a.slot, db = b.slot, slot = out.slot, like = outline(out.value), saved_a = Saved(a.value),
                saved_b = Saved(b.value)] {
                 const Tensor dy = gradient(slot, like);
                 if (da) accumulate(da, scaled_difference(saved_a.get(), saved_b.get(), dy, 2 * weight));
                 if (db) accumulate(db, scaled_difference(saved_b.get(), saved_a.get(), dy, 2 * weight));
               }});
  return out;
}

}  // namespace limbeck::core
