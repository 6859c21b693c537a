#include "core/ops/causal_conv.h"

#include "kernels/causal_conv.h"

namespace limbeck::core {
namespace {

void check_inputs(const Var& x, const Var& weight, const std::optional<Var>& bias) {
  check(x.shape().rank() == 2, "causal_conv: x has shape {}, expected [T,C]", x.shape());
  const std::int64_t channels = x.shape()[1];
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
}

/// With `before`, of which `state` has a copy, a gradient flows to what sequences go on from.
Var convolved(Tape& tape, const Var& x, const Var& weight, const std::optional<Var>& bias, const Sequences& sequences,
              const std::optional<SequenceState>& state, const std::optional<Var>& before) {
  const std::int64_t channels = x.shape()[1], taps = weight.shape()[1];
  const DType dtype = x.value.dtype();
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
  Var out = tape.output(std::move(y), {&x, &weight, bias ? &*bias : &none, before ? &*before : &none});
  if (!out.slot) return out;
  check(!state || before, "causal_conv: what goes on from a state takes no gradient");

  const Saved saved_x(x.value), saved_weight(weight.value), saved_bias(bias ? bias->value : Tensor());
  const Saved saved_before(before ? before->value : Tensor());
  const std::optional<SequenceState> from =
      before ? std::optional(SequenceState{Tensor(), state->slots}) : std::nullopt;
  const SlotPtr to_x = x.slot, to_weight = weight.slot, to_bias = bias ? bias->slot : nullptr,
                to_before = before ? before->slot : nullptr;
  tape.push({"causal_conv",
             {to_x, to_weight, to_bias, to_before},
             [=, slot = out.slot, like = outline(out.value)] {
               const Tensor dy = gradient(slot, like);
               const Tensor& w = saved_weight.get();
               const Tensor& b = saved_bias.get();
               const Tensor& states = saved_before.get();
               Tensor dx = empty_like(dy), dweight = empty_like(w), dbias = b.defined() ? empty_like(b) : Tensor();
               Tensor dstates = from ? zeros_like(states) : Tensor();
               dispatch_activation("causal_conv", dtype, [&]<class T>() {
                 using Sum = kernels::Acc<T>;
                 on_device(dy, [&](const auto& device) {
                   kernels::causal_conv_gradient(
                       device, kernel_sequences(sequences, from ? &*from : nullptr), saved_x.get().data<T>(),
                       w.data<Sum>(), b.defined() ? b.data<Sum>() : nullptr, dy.data<T>(), dx.mutable_data<T>(),
                       dweight.mutable_data<Sum>(), b.defined() ? dbias.mutable_data<Sum>() : nullptr, channels, taps,
                       from ? states.data<T>() : nullptr, from ? dstates.mutable_data<T>() : nullptr);
                 });
               });
               accumulate(to_x, dx);
               accumulate(to_weight, dweight);
               if (to_bias) accumulate(to_bias, dbias);
               if (to_before) accumulate(to_before, dstates);
             }});
  return out;
}

}  // namespace

Var causal_conv(Tape& tape, const Var& x, const Var& weight, const std::optional<Var>& bias, const Sequences& sequences,
                const std::optional<SequenceState>& state) {
  check_inputs(x, weight, bias);
  check_sequences("causal_conv", sequences, x.shape()[0]);
  if (state)
    check_state("causal_conv", *state, sequences, x.value.dtype(), {weight.shape()[1] - 1, weight.shape()[0]});
  return convolved(tape, x, weight, bias, sequences, state, {});
}

Var cut_causal_conv(Tape& tape, const Var& x, const Var& weight, const std::optional<Var>& bias,
                    const SequenceRuns& runs, nn::ContextComm& comm) {
  check_inputs(x, weight, bias);
  check_sequences("cut_causal_conv", runs.own, x.shape()[0]);
  const Var before = rows_before(tape, x, runs, weight.shape()[1] - 1, comm);
  return convolved(tape, x, weight, bias, runs.own, SequenceState{before.value.clone(), runs.slots}, before);
}

}  // namespace limbeck::core
