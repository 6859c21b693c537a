#include "core/ops/gelu.h"

namespace limbeck::core {

Var gelu(Tape& tape, const Var& x, Activation activation) {
  check(activation != Activation::ClampedSwish, "gelu: ClampedSwish is of gated units alone");
  Tensor y = empty_like(x.value);
  dispatch_activation("gelu", y.dtype(), [&]<class T>() {
    on_device(y, [&](const auto& device) {
      kernels::activate(device, x.value.data<T>(), y.mutable_data<T>(), y.numel(), activation);
    });
  });
  Var out = tape.output(std::move(y), {&x});
  if (!out.slot) return out;

  tape.push({"gelu", {x.slot}, [=, saved = Saved(x.value), slot = out.slot, like = outline(out.value), to = x.slot] {
               const Tensor dy = gradient(slot, like);
               Tensor dx = empty_like(dy);
               dispatch_activation("gelu", dy.dtype(), [&]<class T>() {
                 on_device(dy, [&](const auto& device) {
                   kernels::activate_gradient(device, saved.get().data<T>(), dy.data<T>(), dx.mutable_data<T>(),
                                              dy.numel(), activation);
                 });
               });
               accumulate(to, dx);
             }});
  return out;
}

}  // namespace limbeck::core
