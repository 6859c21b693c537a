#include "core/ops/offset.h"

#include "kernels/elementwise.h"

namespace limbeck::core {

Var offset(Tape& tape, const Var& x, double number) {
  Tensor y = empty_like(x.value);
  dispatch_activation("offset", x.value.dtype(), [&]<class T>() {
    on_device(y, [&](const auto& device) {
      T* to = y.mutable_data<T>();
      kernels::fill(device, static_cast<const T*>(nullptr), number, to, y.numel());
      kernels::add_to(device, x.value.data<T>(), to, y.numel());
    });
  });
  Var out = tape.output(std::move(y), {&x});
  if (out.slot)
    tape.push({"offset", {x.slot}, [dx = x.slot, slot = out.slot, like = outline(out.value)] {
                 accumulate(dx, gradient(slot, like));
               }});
  return out;
}

}  // namespace limbeck::core
