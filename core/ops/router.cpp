#include "core/ops/router.h"

#include "core/device/index_check.h"
#include "kernels/routing.h"
#include "kernels/softmax.h"
#include "kernels/topk.h"

namespace limbeck::core {
namespace {

void check_replay(const Tensor& replay, const Shape& shape, std::int64_t experts) {
  check(replay.shape() == shape && replay.dtype() == DType::I32, "route: replay is {} {}, expected int32 {}",
        replay.dtype(), replay.shape(), shape);
  check_indices(replay, 0, experts, [=, selected = shape[1]](std::int64_t at, std::int64_t expert) {
    return fmt::format("route: replay sends token {} to expert {}, expected one in [0,{})", at / selected, expert,
                       experts);
  });
}

}  // namespace

Routing route(Tape& tape, const Var& logits, std::int64_t experts_per_token, bool renormalise, double weight_scale,
              const Tensor* replay) {
  const Tensor& z = logits.value;
  check(z.shape().rank() == 2, "route: logits have shape {}, expected [T,E]", z.shape());
  const std::int64_t tokens = z.shape()[0], experts = z.shape()[1];
  check(experts_per_token >= 1 && experts_per_token <= experts, "route: {} experts a token, expected 1 to {}",
        experts_per_token, experts);
  const kernels::RoutingShape shape{tokens, experts, experts_per_token, renormalise, weight_scale};
  const Shape chosen{tokens, experts_per_token};
  if (replay) check_replay(*replay, chosen, experts);

  Tensor probabilities = empty_like(z);
  Tensor selection = replay ? *replay : Tensor::empty(z.memory(), DType::I32, chosen);
  Tensor weights = Tensor::empty(z.memory(), z.dtype(), chosen);
  dispatch_float("route", z.dtype(), [&]<class T>() {
    on_device(z, [&](const auto& device) {
      T* p = probabilities.mutable_data<T>();
      kernels::softmax(device, z.data<T>(), p, tokens, experts);
      if (!replay) kernels::topk(device, p, selection.mutable_data<std::int32_t>(), tokens, experts, experts_per_token);
      kernels::routing_weights(device, p, selection.data<std::int32_t>(), weights.mutable_data<T>(), shape);
    });
  });

  Routing result{selection, tape.output(weights, {&logits}), tape.output(probabilities, {&logits})};
  if (!result.weights.slot) return result;
  tape.push({"route",
             {logits.slot},
             [=, to = logits.slot, weights_slot = result.weights.slot, probabilities_slot = result.probabilities.slot,
              weights_like = outline(weights), saved_p = Saved(probabilities), saved_selection = Saved(selection)] {
               const Tensor& p = saved_p.get();
               const Tensor dw = gradient(weights_slot, weights_like), dp = gradient(probabilities_slot, p);
               Tensor dz = empty_like(p);
               dispatch_float("route", p.dtype(), [&]<class T>() {
                 on_device(p, [&](const auto& device) {
                   kernels::routing_gradient(device, p.data<T>(), saved_selection.get().data<std::int32_t>(),
                                             dw.data<T>(), dp.data<T>(), dz.mutable_data<T>(), shape);
                 });
               });
               accumulate(to, dz);
             }});
  return result;
}

Routing route_sparse_mixer(Tape& tape, const Var& logits, double jitter, double weight_scale, const Tensor* replay) {
  const Tensor& z = logits.value;
  check(z.shape().rank() == 2 && z.shape()[1] >= 2,
        "route: logits have shape {}, expected [T,E] of two experts or more", z.shape());
  const std::int64_t tokens = z.shape()[0], experts = z.shape()[1];
  const kernels::MixerShape shape{tokens, experts, 2 * jitter, weight_scale};
  const Shape chosen{tokens, 2};
  if (replay) check_replay(*replay, chosen, experts);

  Tensor probabilities = empty_like(z);
  Tensor selection = replay ? *replay : Tensor::empty(z.memory(), DType::I32, chosen);
  Tensor weights = Tensor::empty(z.memory(), z.dtype(), chosen);
  dispatch_float("route", z.dtype(), [&]<class T>() {
    on_device(z, [&](const auto& device) {
      kernels::softmax(device, z.data<T>(), probabilities.mutable_data<T>(), tokens, experts);
      if (!replay) kernels::topk(device, z.data<T>(), selection.mutable_data<std::int32_t>(), tokens, experts, 2);
      kernels::mixer_weights(device, z.data<T>(), selection.data<std::int32_t>(), weights.mutable_data<T>(), shape);
    });
  });

  Routing result{selection, tape.output(weights, {&logits}), tape.output(probabilities, {&logits})};
  if (!result.weights.slot) return result;
  tape.push({"route",
             {logits.slot},
             [=, to = logits.slot, weights_slot = result.weights.slot, probabilities_slot = result.probabilities.slot,
              weights_like = outline(weights), saved_z = Saved(z), saved_p = Saved(probabilities),
              saved_selection = Saved(selection)] {
               const Tensor& p = saved_p.get();
               const Tensor dw = gradient(weights_slot, weights_like), dp = gradient(probabilities_slot, p);
               Tensor dz = empty_like(p);
               dispatch_float("route", p.dtype(), [&]<class T>() {
                 on_device(p, [&](const auto& device) {
                   T* d = dz.mutable_data<T>();
                   kernels::softmax_gradient(device, p.data<T>(), dp.data<T>(), d, tokens, experts);
                   kernels::mixer_gradient(device, saved_z.get().data<T>(), saved_selection.get().data<std::int32_t>(),
                                           dw.data<T>(), d, shape);
                 });
               });
               accumulate(to, dz);
             }});
  return result;
}

}  // namespace limbeck::core
