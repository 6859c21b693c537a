#include "core/ops/dropout.h"

#include "kernels/dropout.h"

namespace limbeck::core {
namespace {

Tensor dropped(const Tensor& x, const Tensor& global_index, double probability, const RandomStream& noise) {
  Tensor y = empty_like(x);
  dispatch_activation("dropout", x.dtype(), [&]<class T>() {
    on_device(x, [&](const auto& device) {
      kernels::dropout(device, x.data<T>(), global_index.data<std::int64_t>(), y.mutable_data<T>(), x.shape()[0],
                       x.shape().row_size(), probability, noise.stream());
    });
  });
  return y;
}

}  // namespace

Var dropout(Tape& tape, const Var& x, const Tensor& global_index, double probability, const RandomStream& noise) {
  check(x.shape().rank() >= 1 && global_index.dtype() == DType::I64 && global_index.shape() == Shape{x.shape()[0]},
        "dropout: x has shape {} and the indices are {} {}, expected [T,...] and int64 [T]", x.shape(),
        global_index.dtype(), global_index.shape());
  check(probability >= 0 && probability < 1, "dropout: probability is {}, expected 0 to below 1", probability);
  if (probability == 0) return x;
  Var out = tape.output(dropped(x.value, global_index, probability, noise), {&x});
  if (out.slot)
    tape.push({"dropout",
               {x.slot},
               [=, slot = out.slot, like = outline(out.value), to = x.slot, index = Saved(global_index)] {
                 accumulate(to, dropped(gradient(slot, like), index.get(), probability, noise));
               }});
  return out;
}

}  // namespace limbeck::core
