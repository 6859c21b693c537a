#include "core/ops/product.h"

namespace limbeck::core {

void check_weight_dtype(std::string_view op, const Tensor& weight, DType dtype) {
  check(weight.dtype() == dtype || weight.dtype() == DType::BF16, "{}: weight is {}, expected {} or bfloat16", op,
        weight.dtype(), dtype);
}

void product(std::string_view op, Transpose transpose_a, Transpose transpose_b, const Tensor& a, const Tensor& b,
             double beta, Tensor c) {
  const std::int64_t k = a.shape()[transpose_a == Transpose::Yes ? 0 : 1];
  dispatch_float(op, a.dtype(), [&]<class T>() {
    on_device(a, [&](const auto& device) {
      with_weight<T>(b, [&](const auto* b_data) {
        kernels::matmul(device, transpose_a, transpose_b, c.shape()[0], c.shape()[1], k, a.data<T>(), b_data,
                        static_cast<T>(beta), c.mutable_data<T>());
      });
    });
  });
}

}  // namespace limbeck::core
