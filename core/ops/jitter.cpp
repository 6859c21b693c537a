#include "core/ops/jitter.h"

#include "kernels/jitter.h"

namespace limbeck::core {
namespace {

Tensor jittered(const Tensor& x, const Tensor& global_index, double epsilon, const RandomStream& noise) {
  Tensor y = empty_like(x);
  dispatch_activation("jitter", x.dtype(), [&]<class T>() {
    on_device(x, [&](const auto& device) {
      kernels::jitter(device, x.data<T>(), global_index.data<std::int64_t>(), y.mutable_data<T>(), x.shape()[0],
                      x.shape()[1], epsilon, noise.stream());
    });
  });
  return y;
}

}  // namespace

Var jitter(Tape& tape, const Var& x, const Tensor& global_index, double epsilon, const RandomStream& noise) {
  check(x.shape().rank() == 2 && global_index.shape() == Shape{x.shape()[0]},
        "jitter: x has shape {} and the indices {}, expected [T,C] and [T]", x.shape(), global_index.shape());
  Var out = tape.output(jittered(x.value, global_index, epsilon, noise), {&x});
  if (out.slot)
    tape.push(
        {"jitter", {x.slot}, [=, slot = out.slot, like = outline(out.value), to = x.slot, index = Saved(global_index)] {
           accumulate(to, jittered(gradient(slot, like), index.get(), epsilon, noise));
         }});
  return out;
}

}  // namespace limbeck::core
