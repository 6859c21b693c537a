#include "core/ops/capacity.h"

#include "core/device/index_check.h"
#include "kernels/capacity.h"

namespace limbeck::core {

Tensor limit_capacity(const Tensor& selection, const Tensor& sequence, std::int64_t num_experts, double factor) {
  check(selection.shape().rank() == 2 && sequence.shape() == Shape{selection.shape()[0]},
        "capacity: selection has shape {} and sequence {}, expected [T,K] and [T]", selection.shape(),
        sequence.shape());
  check(factor > 0, "capacity: the factor is {}, expected a positive number", factor);
  Tensor kept = Tensor::empty(selection.memory(), DType::I32, selection.shape());
  check_indices(selection, 0, num_experts, [=](std::int64_t at, std::int64_t expert) {
    return fmt::format("capacity: assignment {} is to expert {}, expected one in [0,{})", at, expert, num_experts);
  });
  on_device(selection, [&](const auto& device) {
    kernels::limit_capacity(device, selection.data<std::int32_t>(), sequence.data<std::int32_t>(),
                            kept.mutable_data<std::int32_t>(),
                            {selection.shape()[0], num_experts, selection.shape()[1]}, factor);
  });
  return kept;
}

Tensor choose_tokens(const Tensor& scores, const Tensor& sequence, std::int64_t experts_per_token, double factor) {
  check(scores.shape().rank() == 2 && sequence.shape() == Shape{scores.shape()[0]},
        "expert choice: scores have shape {} and sequence {}, expected [T,E] and [T]", scores.shape(),
        sequence.shape());
  const std::int64_t tokens = scores.shape()[0], experts = scores.shape()[1];
  check(experts_per_token >= 1 && experts_per_token <= experts, "expert choice: {} experts a token, expected 1 to {}",
        experts_per_token, experts);
  check(factor > 0, "expert choice: the factor is {}, expected a positive number", factor);
  Tensor selection = Tensor::empty(scores.memory(), DType::I32, scores.shape());
  dispatch_float("expert choice", scores.dtype(), [&]<class T>() {
    on_device(scores, [&](const auto& device) {
      kernels::choose_tokens(device, scores.data<T>(), sequence.data<std::int32_t>(),
                             selection.mutable_data<std::int32_t>(), {tokens, experts, experts_per_token}, factor);
    });
  });
  return selection;
}

Tensor count_untaken(const Tensor& selection) {
  Tensor count = Tensor::empty(selection.memory(), DType::I64, {1});
  on_device(selection, [&](const auto& device) {
    kernels::count_untaken(device, selection.data<std::int32_t>(), selection.shape()[0], selection.shape()[1],
                           count.mutable_data<std::int64_t>());
  });
  return count;
}

}  // namespace limbeck::core
