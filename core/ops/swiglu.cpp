#include "core/ops/swiglu.h"

#include "kernels/swiglu.h"

namespace limbeck::core {

Var swiglu(Tape& tape, const Var& gate, const Var& up, Activation activation, double limit) {
  check(gate.shape() == up.shape(), "swiglu: up has shape {}, expected {} as gate", up.shape(), gate.shape());
  check(gate.value.dtype() == up.value.dtype(), "swiglu: up is {}, expected {} as gate", up.value.dtype(),
        gate.value.dtype());
  check((activation == Activation::ClampedSwish) == (limit > 0),
        "swiglu: limit is {}, expected one above 0 of ClampedSwish alone", limit);
  Tensor y = empty_like(gate.value);
  dispatch_activation("swiglu", y.dtype(), [&]<class T>() {
    on_device(y, [&](const auto& device) {
      kernels::swiglu(device, gate.value.data<T>(), up.value.data<T>(), y.mutable_data<T>(), y.numel(), activation,
                      limit);
    });
  });
  Var out = tape.output(std::move(y), {&gate, &up});
  if (!out.slot) return out;

  const Saved saved_gate(gate.value), saved_up(up.value);
  tape.push({"swiglu",
             {gate.slot, up.slot},
             [=, slot = out.slot, like = outline(out.value), to_gate = gate.slot, to_up = up.slot] {
               const Tensor dy = gradient(slot, like);
               Tensor dgate = empty_like(dy), dup = empty_like(dy);
               dispatch_activation("swiglu", dy.dtype(), [&]<class T>() {
                 on_device(dy, [&](const auto& device) {
                   kernels::swiglu_gradient(device, saved_gate.get().data<T>(), saved_up.get().data<T>(), dy.data<T>(),
                                            dgate.mutable_data<T>(), dup.mutable_data<T>(), dy.numel(), activation,
                                            limit);
                 });
               });
               accumulate(to_gate, dgate);
               accumulate(to_up, dup);
             }});
  return out;
}

}  // namespace limbeck::core
