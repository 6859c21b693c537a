#include "core/ops/capacity.h"

#include "kernels/capacity.h"
#include "kernels/index_check.h"

namespace limbeck::core {

Tensor limit_capacity(const Tensor& selection, const Tensor& sequence, std::int64_t num_experts, double factor) {
  check(selection.shape().rank() == 2 && sequence.shape() == Shape{selection.shape()[0]},
        "capacity: selection has shape {} and sequence {}, expected [T,K] and [T]", selection.shape(),
        sequence.shape());
  check(factor > 0, "capacity: the factor is {}, expected a positive number", factor);
  Tensor kept = Tensor::empty(selection.memory(), DType::I32, selection.shape());
  on_device(selection, [&](const auto& device) {
    const auto* expert = selection.data<std::int32_t>();
    const std::int64_t bad = kernels::first_outside(device, expert, selection.numel(), num_experts);
    check(bad < 0, "capacity: assignment {} is to an expert that is not in [0,{})", bad, num_experts);
    kernels::limit_capacity(device, expert, sequence.data<std::int32_t>(), kept.mutable_data<std::int32_t>(),
                            {selection.shape()[0], num_experts, selection.shape()[1]}, factor);
  });
  return kept;
}

}  // namespace limbeck::core
