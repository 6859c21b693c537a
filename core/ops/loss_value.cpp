#include "core/ops/loss_value.h"

#include "kernels/elementwise.h"

namespace limbeck::core {

double mean_weight(std::string_view op, std::int64_t count, std::int64_t global_count) {
  const std::int64_t n = global_count == 0 ? count : global_count;
  check(n > 0, "{}: the mean is over {} elements, expected one or more", op, n);
  return 1 / static_cast<double>(n);
}

Tensor as_loss(Tensor total, double weight, DType dtype) {
  on_device(total, [&](const auto& device) {
    auto* value = total.mutable_data<double>();
    kernels::scale(device, value, weight, value, 1);
  });
  return dtype == DType::F64 ? total : total.to(dtype);
}

}  // namespace limbeck::core
