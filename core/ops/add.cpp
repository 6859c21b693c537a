#include "core/ops/add.h"

#include "core/ops/stream_types.h"
#include "kernels/elementwise.h"

namespace limbeck::core {
namespace {

Tensor scaled(const Tensor& x, double factor) {
  Tensor y = empty_like(x);
  dispatch_activation("scale", x.dtype(), [&]<class T>() {
    on_device(x, [&](const auto& device) {
      kernels::scale(device, x.data<T>(), static_cast<kernels::Acc<T>>(factor), y.mutable_data<T>(), x.numel());
    });
  });
  return y;
}

}  // namespace

Var add(Tape& tape, const Var& a, const Var& b) {
  check(a.shape() == b.shape(), "add: b has shape {}, expected {} as a", b.shape(), a.shape());
  const DType own = a.value.dtype(), other = b.value.dtype();
  check(is_beside(other, own), "add: b is {}, expected {} as a{}", other, own,
        own == DType::F32 ? ", or bfloat16" : "");
  Tensor y = empty_like(a.value);
  dispatch_stream("add", own, other, [&]<class A, class B>() {
    on_device(y, [&](const auto& device) {
      kernels::add(device, a.value.data<A>(), b.value.data<B>(), y.mutable_data<A>(), y.numel());
    });
  });
  Var out = tape.output(std::move(y), {&a, &b});
  if (out.slot)
    tape.push({"add", {a.slot, b.slot}, [=, da = a.slot, db = b.slot, slot = out.slot, like = outline(out.value)] {
                 const Tensor dy = gradient(slot, like);
                 accumulate(da, dy);
                 if (db) accumulate(db, own == other ? dy : dy.to(other));
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
