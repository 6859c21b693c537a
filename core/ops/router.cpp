#include "core/ops/router.h"

#include "core/device/index_check.h"
#include "kernels/softmax.h"
#include "kernels/topk.h"

namespace limbeck::core {
namespace {

void check_replay(const Tensor& replay, const Shape& shape, std::int64_t experts, std::int64_t least = 0) {
  check(replay.shape() == shape && replay.dtype() == DType::I32, "route: replay is {} {}, expected int32 {}",
        replay.dtype(), replay.shape(), shape);
  check_indices(replay, least, experts, [=, selected = shape[1]](std::int64_t at, std::int64_t expert) {
    return fmt::format("route: replay sends token {} to expert {}, expected one in [0,{})", at / selected, expert,
                       experts);
  });
}

void check_rule(const RoutingRule& rule, const Tensor& logits, std::int64_t selected) {
  const std::int64_t experts = logits.shape()[1];
  const auto& [groups, taken, best_two] = rule.groups;
  check(groups >= 1 && experts % groups == 0 && (groups == 1 || !best_two || experts / groups >= 2),
        "route: {} groups of {} experts, expected a divisor{}", groups, experts,
        best_two ? " that leaves two or more to each" : "");
  check(taken >= 1 && taken <= groups && selected <= taken * (experts / groups),
        "route: {} of {} groups for {} of {} experts", taken, groups, selected, experts);
  check(!rule.choice || taken == groups,
        "route: tokens choose {} of {} groups of experts, expected all: experts choose", taken, groups);
  check(!rule.bias.defined() || (rule.bias.shape() == Shape{experts} && rule.bias.dtype() == logits.dtype()),
        "route: bias is {} {}, expected {} [{}]", rule.bias.defined() ? rule.bias.dtype() : DType::F32,
        rule.bias.defined() ? rule.bias.shape() : Shape{}, logits.dtype(), experts);
}

/// [T,K]: the best of each token, of the groups that the rule takes.
Tensor best_of_each_token(const RoutingRule& rule, const Tensor& scores, std::int64_t count) {
  const std::int64_t tokens = scores.shape()[0], experts = scores.shape()[1];
  Tensor selection = Tensor::empty(scores.memory(), DType::I32, {tokens, count});
  const bool by_scores = !rule.bias.defined() && rule.groups.taken == rule.groups.groups;
  Tensor choice = by_scores ? scores : empty_like(scores);
  dispatch_float("route", scores.dtype(), [&]<class T>() {
    on_device(scores, [&](const auto& device) {
      if (!by_scores)
        kernels::routing_choice(device, scores.data<T>(), rule.bias.defined() ? rule.bias.data<T>() : nullptr,
                                rule.groups, choice.mutable_data<T>(), tokens, experts);
      kernels::topk(device, choice.data<T>(), selection.mutable_data<std::int32_t>(), tokens, experts, count);
    });
  });
  return selection;
}

}  // namespace

Routing route(Tape& tape, const Var& logits, std::int64_t experts_per_token, bool renormalise, double weight_scale,
              const Tensor* replay, const RoutingRule& rule) {
  const Tensor& z = logits.value;
  check(z.shape().rank() == 2, "route: logits have shape {}, expected [T,E]", z.shape());
  const std::int64_t tokens = z.shape()[0], experts = z.shape()[1];
  check(experts_per_token >= 1 && experts_per_token <= experts, "route: {} experts a token, expected 1 to {}",
        experts_per_token, experts);
  const Shape chosen{tokens, rule.choice ? experts : experts_per_token};
  const kernels::RoutingShape shape{tokens, experts, chosen[1], renormalise, weight_scale, rule.is_sigmoid};
  if (replay) check_replay(*replay, chosen, experts, rule.choice ? -1 : 0);
  check_rule(rule, z, experts_per_token);

  Tensor probabilities = empty_like(z);
  Tensor scores = rule.is_sigmoid ? empty_like(z) : probabilities;
  dispatch_float("route", z.dtype(), [&]<class T>() {
    on_device(z, [&](const auto& device) {
      T *p = probabilities.mutable_data<T>(), *s = scores.mutable_data<T>();
      if (rule.is_sigmoid)
        kernels::routing_sigmoid(device, z.data<T>(), s, p, tokens, experts);
      else
        kernels::softmax(device, z.data<T>(), p, tokens, experts);
    });
  });
  const Tensor selection = replay        ? *replay
                           : rule.choice ? rule.choice(scores)
                                         : best_of_each_token(rule, scores, experts_per_token);
  Tensor weights = Tensor::empty(z.memory(), z.dtype(), chosen);
  dispatch_float("route", z.dtype(), [&]<class T>() {
    on_device(z, [&](const auto& device) {
      kernels::routing_weights(device, scores.data<T>(), selection.data<std::int32_t>(), weights.mutable_data<T>(),
                               shape);
    });
  });

  Routing result{selection, tape.output(weights, {&logits}), tape.output(probabilities, {&logits})};
  if (!result.weights.slot) return result;
  tape.push({"route",
             {logits.slot},
             [=, to = logits.slot, weights_slot = result.weights.slot, probabilities_slot = result.probabilities.slot,
              weights_like = outline(weights), saved_s = Saved(scores), saved_selection = Saved(selection)] {
               const Tensor& s = saved_s.get();
               const Tensor dw = gradient(weights_slot, weights_like), dp = gradient(probabilities_slot, s);
               Tensor dz = empty_like(s);
               dispatch_float("route", s.dtype(), [&]<class T>() {
                 on_device(s, [&](const auto& device) {
                   kernels::routing_gradient(device, s.data<T>(), saved_selection.get().data<std::int32_t>(),
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
