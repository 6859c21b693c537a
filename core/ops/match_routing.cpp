#include "core/ops/match_routing.h"

#include "core/device/index_check.h"
#include "kernels/elementwise.h"
#include "kernels/match_routing.h"
#include "kernels/sums.h"

namespace limbeck::core {

Tensor load_weights(const Tensor& selection, const Tensor& counts, const Tensor& sequence) {
  check(selection.shape().rank() == 2 && sequence.shape() == Shape{selection.shape()[0]},
        "load_weights: sequence has shape {}, expected [T] (selection is {}, expected [T,K])", sequence.shape(),
        selection.shape());
  check(counts.shape().rank() == 2 && counts.dtype() == DType::F64,
        "load_weights: counts are {} {}, expected float64 [S,E]", counts.dtype(), counts.shape());
  const std::int64_t tokens = selection.shape()[0], num_experts = counts.shape()[1];
  check_indices(selection, 0, num_experts, [=](std::int64_t at, std::int64_t expert) {
    return fmt::format("load_weights: assignment {} is to expert {}, expected one in [0,{})", at, expert, num_experts);
  });
  Tensor weights = Tensor::empty(selection.memory(), DType::F64, {tokens});
  on_device(selection, [&](const auto& device) {
    kernels::load_weights(device, selection.data<std::int32_t>(), counts.data<double>(), sequence.data<std::int32_t>(),
                          weights.mutable_data<double>(),
                          {tokens, num_experts, selection.shape()[1], counts.shape()[0]});
  });
  return weights;
}

Var match_routing(Tape& tape, const Var& q, const Tensor& p, const Tensor& targets, const Tensor& weights,
                  const MatchOptions& options) {
  const Tensor& own = q.value;
  check(own.shape().rank() == 2, "match_routing: q has shape {}, expected [T,E]", own.shape());
  const std::int64_t rows = own.shape()[0], experts = own.shape()[1];
  check(p.shape() == own.shape() && p.dtype() == own.dtype(), "match_routing: p is {} {}, expected {} {}", p.dtype(),
        p.shape(), own.dtype(), own.shape());
  check(targets.dtype() == DType::I32 && targets.shape() == Shape{rows},
        "match_routing: targets are {} {}, expected int32 [{}] (q is {})", targets.dtype(), targets.shape(), rows,
        own.shape());
  check(!weights.defined() || (weights.dtype() == DType::F64 && weights.shape() == Shape{rows}),
        "match_routing: weights are not float64 [{}] (q is {})", rows, own.shape());
  const auto weight = [weight = options.weight](const Tensor& scale) {
    return kernels::TokenWeight(weight, scale.defined() ? scale.data<double>() : nullptr);
  };
  const auto of_tokens = [](const Tensor& values) { return values.defined() ? values.data<double>() : nullptr; };
  Tensor distances = Tensor::empty(own.memory(), DType::F64, {rows}),
         squares = Tensor::empty(own.memory(), DType::F64, {rows}),
         total = Tensor::empty(own.memory(), DType::F64, {1});
  const bool adds_squares = options.squares.defined() && !tape.is_replay();
  Tensor sum = adds_squares ? Tensor::empty(own.memory(), DType::F64, {1}) : Tensor(), to_squares = options.squares;
  dispatch_float("match_routing", own.dtype(), [&]<class T>() {
    on_device(own, [&](const auto& device) {
      kernels::routing_distance(device, own.data<T>(), p.data<T>(), targets.data<std::int32_t>(), of_tokens(weights),
                                weight(options.scale), distances.mutable_data<double>(), squares.mutable_data<double>(),
                                rows, experts);
      kernels::sum(device, distances.data<double>(), rows, total.mutable_data<double>());
      if (!adds_squares) return;
      kernels::sum(device, squares.data<double>(), rows, sum.mutable_data<double>());
      kernels::add_to(device, sum.data<double>(), to_squares.mutable_data<double>(), 1);
    });
  });
  Var out = tape.output(total.to(own.dtype()), {&q});
  if (!out.slot) return out;
  tape.push({"match_routing",
             {q.slot},
             [=, slot = out.slot, like = outline(out.value), to = q.slot, saved_q = Saved(own), saved_p = Saved(p),
              saved_targets = Saved(targets), saved_weights = Saved(weights), scale = options.scale] {
               const Tensor dloss = gradient(slot, like);
               const Tensor& of_student = saved_q.get();
               Tensor dq = empty_like(of_student);
               dispatch_float("match_routing", dq.dtype(), [&]<class T>() {
                 on_device(dq, [&](const auto& device) {
                   kernels::routing_distance_gradient(device, of_student.data<T>(), saved_p.get().data<T>(),
                                                      saved_targets.get().data<std::int32_t>(),
                                                      of_tokens(saved_weights.get()), weight(scale), dloss.data<T>(),
                                                      dq.mutable_data<T>(), rows, experts);
                 });
               });
               accumulate(to, dq);
             }});
  return out;
}

}  // namespace limbeck::core
