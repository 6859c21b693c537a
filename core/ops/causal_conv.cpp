#include "core/ops/causal_conv.h"

#include "kernels/causal_conv.h"

namespace limbeck::core {

Var causal_conv(Tape& tape, const Var& x, const Var& weight, const std::optional<Var>& bias, const Sequences& sequences,
                const std::optional<SequenceState>& state) {
  check(x.shape().rank() == 2, "causal_conv: x has shape {}, expected [T,C]", x.shape());
  const std::int64_t tokens = x.shape()[0], channels = x.shape()[1];
  const std::int64_t taps = weight.shape().rank() == 2 ? weight.shape()[1] : 0;
  check(weight.shape() == Shape{channels, taps} && taps >= 1 && taps <= kernels::most_taps,
        "causal_conv: weight has shape {}, expected [{},K], K from 1 to {} (x is {})", weight.shape(), channels,
        kernels::most_taps, x.shape());
  const DType dtype = x.value.dtype(), sums = sum_dtype(dtype);
  check(weight.value.dtype() == sums, "causal_conv: weight is {}, expected {} beside x of {}", weight.value.dtype(),
        sums, dtype);
  if (bias)
    check(bias->value.dtype() == sums && bias->shape() == Shape{channels}, "causal_conv: bias is {} {}, expected {} {}",
          bias->value.dtype(), bias->shape(), sums, Shape{channels});
  check_sequences("causal_conv", sequences, tokens);
  if (state) check_state("causal_conv", *state, sequences, dtype, {taps - 1, channels});

  Tensor y = empty_like(x.value);
  dispatch_activation("causal_conv", dtype, [&]<class T>() {
    using Sum = kernels::Acc<T>;
    Tensor rows = state ? state->rows : Tensor();
    on_device(y, [&](const auto& device) {
      kernels::causal_conv(device, kernel_sequences(sequences, state ? &*state : nullptr), x.value.data<T>(),
                           weight.value.data<Sum>(), bias ? bias->value.data<Sum>() : nullptr,
                           state ? rows.mutable_data<T>() : nullptr, y.mutable_data<T>(), channels, taps);
    });
  });
  const Var none;
  Var out = tape.output(std::move(y), {&x, &weight, bias ? &*bias : &none});
  if (!out.slot) return out;
  check(!state, "causal_conv: what goes on from a state takes no gradient");

  const Saved saved_x(x.value), saved_weight(weight.value), saved_bias(bias ? bias->value : Tensor());
  tape.push({"causal_conv",
             {x.slot, weight.slot, bias ? bias->slot : nullptr},
             [=, slot = out.slot, like = outline(out.value), to_x = x.slot, to_weight = weight.slot,
              to_bias = bias ? bias->slot : nullptr] {
               const Tensor dy = gradient(slot, like);
               const Tensor& w = saved_weight.get();
               const Tensor& b = saved_bias.get();
               Tensor dx = empty_like(dy), dweight = empty_like(w), dbias = b.defined() ? empty_like(b) : Tensor();
               dispatch_activation("causal_conv", dtype, [&]<class T>() {
                 using Sum = kernels::Acc<T>;
                 on_device(dy, [&](const auto& device) {
                   kernels::causal_conv_gradient(device, kernel_sequences(sequences, nullptr), saved_x.get().data<T>(),
                                                 w.data<Sum>(), b.defined() ? b.data<Sum>() : nullptr, dy.data<T>(),
                                                 dx.mutable_data<T>(), dweight.mutable_data<Sum>(),
                                                 b.defined() ? dbias.mutable_data<Sum>() : nullptr, channels, taps);
                 });
               });
               accumulate(to_x, dx);
               accumulate(to_weight, dweight);
               if (to_bias) accumulate(to_bias, dbias);
             }});
  return out;
}

}  // namespace limbeck::core
