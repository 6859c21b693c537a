#include "core/ops/cast.h"

namespace limbeck::core {

Var cast(Tape& tape, const Var& x, DType dtype) {
  const DType own = x.value.dtype();
  if (own == dtype) return x;
  Var out = tape.output(x.value.to(dtype), {&x});
  if (out.slot)
    tape.push({"cast", {x.slot}, [=, to = x.slot, slot = out.slot, like = outline(out.value)] {
                 accumulate(to, gradient(slot, like).to(own));
               }});
  return out;
}

}  // namespace limbeck::core
