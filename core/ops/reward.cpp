#include "core/ops/reward.h"

#include "kernels/bias.h"
#include "kernels/sums.h"

namespace limbeck::core {
namespace {

struct Responses {
  Tensor weight;   // [1,C], as products with the hidden states read it
  Tensor last;     // [N,2] int64, rows of the hidden states
  Tensor rewards;  // [N,2] float64
};

Responses responses_of(const Tensor& hidden, const Tensor& weight, const Tensor& document,
                       const Tensor& sequence_offsets) {
  check(hidden.shape().rank() == 2, "reward: hidden has shape {}, expected [T,C]", hidden.shape());
  const std::int64_t tokens = hidden.shape()[0], width = hidden.shape()[1], pairs = sequence_offsets.numel() - 1;
  const DType sums = sum_dtype(hidden.dtype());
  check(weight.shape() == Shape{1, width}, "reward: weight has shape {}, expected [1,{}] (hidden is {})",
        weight.shape(), width, hidden.shape());
  check(document.dtype() == DType::I32 && document.shape() == Shape{tokens} && sequence_offsets.dtype() == DType::I64 &&
            pairs >= 0,
        "reward: document is {} {}, sequence_offsets are {} {}, expected int32 [{}] and int64 [N+1]", document.dtype(),
        document.shape(), sequence_offsets.dtype(), sequence_offsets.shape(), tokens);
  Responses found{weight.dtype() == sums ? weight : weight.to(sums),
                  Tensor::empty(hidden.memory(), DType::I64, {pairs, 2}),
                  Tensor::empty(hidden.memory(), DType::F64, {pairs, 2})};
  dispatch_activation("reward", hidden.dtype(), [&]<class X>() {
    on_device(hidden, [&](const auto& device) {
      kernels::response_rewards(device, hidden.data<X>(), found.weight.data<kernels::Acc<X>>(),
                                document.data<std::int32_t>(), sequence_offsets.data<std::int64_t>(),
                                found.last.mutable_data<std::int64_t>(), found.rewards.mutable_data<double>(), pairs,
                                width);
    });
  });
  return found;
}

}  // namespace

Tensor pair_rewards(const Tensor& hidden, const Tensor& weight, const Tensor& document,
                    const Tensor& sequence_offsets) {
  return responses_of(hidden, weight, document, sequence_offsets).rewards;
}

Var reward_loss(Tape& tape, const Var& hidden, const Var& weight, const Tensor& document,
                const Tensor& sequence_offsets, const RewardOptions& options, Tensor& totals) {
  constexpr std::int64_t columns = kernels::num_preference_columns;
  check(totals.dtype() == DType::F64 && totals.shape() == Shape{columns},
        "reward: totals are {} {}, expected float64 [{}]", totals.dtype(), totals.shape(), columns);
  check(options.scale.defined() && options.scale.dtype() == DType::F64 && options.scale.numel() == 1,
        "reward: there is no scale, expected float64 [1]");
  const Responses found = responses_of(hidden.value, weight.value, document, sequence_offsets);
  const Tensor& x = hidden.value;
  const std::int64_t pairs = sequence_offsets.numel() - 1, width = x.shape()[1];
  Tensor losses = Tensor::empty(x.memory(), DType::F64, {pairs}),
         slopes = Tensor::empty(x.memory(), DType::F64, {pairs, 2}),
         of_pairs = Tensor::empty(x.memory(), DType::F64, {pairs, columns}),
         total = Tensor::empty(x.memory(), DType::F64, {1});
  on_device(x, [&](const auto& device) {
    kernels::reward_pairs(device, found.rewards.data<double>(), pairs, options.center, options.scale.data<double>(),
                          losses.mutable_data<double>(), slopes.mutable_data<double>(),
                          of_pairs.mutable_data<double>());
    kernels::column_sums(device, of_pairs.data<double>(), /*add=*/true, totals.mutable_data<double>(), pairs, columns);
    kernels::sum(device, losses.data<double>(), pairs, total.mutable_data<double>());
  });
  Var out = tape.output(total.to(found.weight.dtype()), {&hidden, &weight});
  if (!out.slot) return out;

  const auto pass = [=, loss = out.slot, like = outline(out.value), saved_last = Saved(found.last),
                     saved_slopes = Saved(slopes), shape = outline(x)](auto&& run) {
    const Tensor dloss = gradient(loss, like);
    dispatch_activation("reward", shape.dtype(), [&]<class X>() {
      on_device(dloss, [&](const auto& device) {
        run.template operator()<X>(device, saved_last.get().data<std::int64_t>(), saved_slopes.get().data<double>(),
                                   dloss.data<kernels::Acc<X>>());
      });
    });
  };
  Tape::Step step{
      "reward", {hidden.slot}, [=, to = hidden.slot, like = outline(x), saved_weight = Saved(found.weight)] {
        if (!to) return;
        Tensor dx = Tensor::zeros(like.memory(), like.dtype(), like.shape());
        pass([&]<class X>(const auto& device, const auto* last, const double* slope, const auto* dloss) {
          kernels::reward_input_gradient(device, saved_weight.get().data<kernels::Acc<X>>(), last, slope, dloss,
                                         dx.mutable_data<X>(), pairs, width);
        });
        accumulate(to, dx);
      }};
  if (weight.slot) {
    step.weight_slots = {weight.slot};
    step.weight_part = [=, to = weight.slot, like = outline(found.weight), saved_x = Saved(x)] {
      GradientTarget dw = open_gradient(to, like);
      pass([&]<class X>(const auto& device, const auto* last, const double* slope, const auto* dloss) {
        kernels::reward_weight_gradient(device, saved_x.get().data<X>(), last, slope, dloss, dw.beta != 0,
                                        dw.tensor.mutable_data<kernels::Acc<X>>(), pairs, width);
      });
    };
  }
  tape.push(std::move(step));
  return out;
}

}  // namespace limbeck::core
