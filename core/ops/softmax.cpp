#include "core/ops/softmax.h"

#include "kernels/softmax.h"

namespace limbeck::core {

Var softmax(Tape& tape, const Var& x) {
  const Shape& shape = x.shape();
  check(shape.rank() >= 1, "softmax: x is a scalar, expected one dimension or more");
  const std::int64_t width = shape[shape.rank() - 1];
  const std::int64_t rows = width == 0 ? 0 : shape.numel() / width;
  Tensor y = empty_like(x.value);
  dispatch_float("softmax", y.dtype(), [&]<class T>() {
    on_device(
        y, [&](const auto& device) { kernels::softmax(device, x.value.data<T>(), y.mutable_data<T>(), rows, width); });
  });
  Var out = tape.output(y, {&x});
  if (out.slot)
    tape.push({"softmax", {x.slot}, [=, to = x.slot, slot = out.slot, saved = Saved(y)] {
                 const Tensor& p = saved.get();
                 const Tensor dy = gradient(slot, p);
                 Tensor dx = empty_like(p);
                 dispatch_float("softmax", p.dtype(), [&]<class T>() {
                   on_device(p, [&](const auto& device) {
                     kernels::softmax_gradient(device, p.data<T>(), dy.data<T>(), dx.mutable_data<T>(), rows, width);
                   });
                 });
                 accumulate(to, dx);
               }});
  return out;
}

}  // namespace limbeck::core
