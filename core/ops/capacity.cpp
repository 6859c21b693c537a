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

}  // namespace limbeck::core
