#include "core/ops/add.h"

#include "kernels/elementwise.h"

namespace limbeck::core {
namespace {

Tensor scaled(const Tensor& x, double factor) {
  Tensor y = empty_like(x);
  dispatch_float("scale", x.dtype(), [&]<class T>() {
    on_device(x, [&](const auto& device) {
      kernels::scale(device, x.data<T>(), static_cast<T>(factor), y.mutable_data<T>(), x.numel());
    });
  });
  return y;
}

}  // namespace

Var add(Tape& tape, const Var& a, const Var& b) {
  check(a.shape() == b.shape(), "add: b has shape {}, expected {} as a", b.shape(), a.shape());
  check(a.value.dtype() == b.value.dtype(), "add: b is {}, expected {} as a", b.value.dtype(), a.value.dtype());
  Tensor y = empty_like(a.value);
  dispatch_float("add", y.dtype(), [&]<class T>() {
    on_device(y, [&](const auto& device) {
      kernels::add(device, a.value.data<T>(), b.value.data<T>(), y.mutable_data<T>(), y.numel());
    });
  });
  Var out = tape.output(std::move(y), {&a, &b});
  if (out.slot)
    tape.push({"add", {a.slot, b.slot}, [=, da = a.slot, db = b.slot, slot = out.slot, like = outline(out.value)] {
                 const Tensor dy = gradient(slot, like);
                 accumulate(da, dy);
                 accumulate(db, dy);
               }});
  return out;
}

Var scale(Tape& tape, const Var& x, double factor) {
  Var out = tape.output(scaled(x.value, factor), {&x});
  if (out.slot)
    tape.push({"scale", {x.slot}, [=, dx = x.slot, slot = out.slot, like = outline(out.value)] {
                 accumulate(dx, scaled(gradient(slot, like), factor));
               }});
  return out;
}

}  // namespace limbeck::core
