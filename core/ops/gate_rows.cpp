#include "core/ops/gate_rows.h"

#include "kernels/gate_rows.h"

namespace limbeck::core {

Var gate_rows(Tape& tape, const Var& gate, const Var& x) {
  check(x.shape().rank() == 2 && gate.shape() == Shape{x.shape()[0], 1},
        "gate_rows: gate has shape {}, expected [T,1] (x is {})", gate.shape(), x.shape());
  check(gate.value.dtype() == x.value.dtype(), "gate_rows: gate is {}, expected {} as x", gate.value.dtype(),
        x.value.dtype());
  const std::int64_t rows = x.shape()[0], width = x.shape()[1];
  Tensor y = empty_like(x.value);
  dispatch_activation("gate_rows", y.dtype(), [&]<class T>() {
    on_device(y, [&](const auto& device) {
      kernels::gate_rows(device, gate.value.data<T>(), x.value.data<T>(), y.mutable_data<T>(), rows, width);
    });
  });
  Var out = tape.output(std::move(y), {&gate, &x});
  if (!out.slot) return out;
  tape.push({"gate_rows",
             {gate.slot, x.slot},
             [=, slot = out.slot, like = outline(out.value), saved_gate = Saved(gate.value), saved_x = Saved(x.value),
              to_gate = gate.slot, to_x = x.slot] {
               const Tensor dy = gradient(slot, like);
               Tensor dgate = empty_like(saved_gate.get()), dx = empty_like(dy);
               dispatch_activation("gate_rows", dy.dtype(), [&]<class T>() {
                 on_device(dy, [&](const auto& device) {
                   kernels::gate_rows_gradient(device, saved_gate.get().data<T>(), saved_x.get().data<T>(),
                                               dy.data<T>(), dgate.mutable_data<T>(), dx.mutable_data<T>(), rows,
                                               width);
                 });
               });
               accumulate(to_gate, dgate);
               accumulate(to_x, dx);
             }});
  return out;
}

}  // namespace limbeck::core
