#include "core/ops/product.h"

#include "core/ops/packed_weight.h"

namespace limbeck::core {

void check_weight_dtype(std::string_view op, const Tensor& weight, DType dtype) {
  const DType wide = sum_dtype(dtype);
  check(weight.dtype() == wide || weight.dtype() == DType::BF16 || (wide == DType::F32 && block_format(weight.dtype())),
        "{}: weight is {}, expected {} or bfloat16", op, weight.dtype(), wide);
}

std::optional<kernels::Blocks> blocks_of(const Tensor& weight) {
  const auto format = block_format(weight.dtype());
  if (!format) return std::nullopt;
  return kernels::Blocks{*format, weight.raw()};
}

Tensor expanded(const Tensor& weight) {
  const kernels::Blocks blocks = *blocks_of(weight);
  Tensor values = Tensor::empty(weight.memory(), DType::F32, weight.shape());
  on_device(values, [&](const auto& device) {
    kernels::expand_blocks(device, blocks, weight.numel() / kernels::size_of(blocks.format).elements,
                           values.mutable_data<float>());
  });
  return values;
}

void product(std::string_view op, const Tensor& a, Transpose transpose, const Tensor& weight, double beta, Tensor c) {
  const std::int64_t m = c.shape()[0], n = c.shape()[1], k = a.shape()[1];
  if (const auto blocks = blocks_of(weight)) {
    if (transpose == Transpose::No) return product(op, a, transpose, expanded(weight), beta, c);
    on_device(a, [&](const auto& device) {
      const auto run = [&]<class T, class C>(const T* x, C* y) {
        kernels::blocks_matmul(device, m, n, k, x, *blocks, static_cast<float>(beta), y);
      };
      if (a.dtype() == DType::F32)
        run(a.data<float>(), c.mutable_data<float>());
      else if (c.dtype() == DType::F32)
        run(a.data<bf16>(), c.mutable_data<float>());
      else
        run(a.data<bf16>(), c.mutable_data<bf16>());
    });
    return;
  }
  if (a.dtype() == DType::BF16) {
    const Factor packed = packed_weight(weight, transpose);
    dispatch_activation(op, c.dtype(), [&]<class C>() {
      if constexpr (!std::is_same_v<C, double>)
        on_device(a, [&](const auto& device) {
          kernels::packed_matmul(device, m, n, k, a.data<bf16>(), packed.factor, static_cast<float>(beta),
                                 c.mutable_data<C>());
        });
    });
    return;
  }
  dispatch_float(op, a.dtype(), [&]<class T>() {
    on_device(a, [&](const auto& device) {
      with_weight<T>(weight, [&](const auto* values) {
        kernels::matmul(device, Transpose::No, transpose, m, n, k, a.data<T>(), values, static_cast<T>(beta),
                        c.mutable_data<T>());
      });
    });
  });
}

void weight_gradient(std::string_view op, const Tensor& dy, const Tensor& x, double beta, Tensor dw) {
  dispatch_activation(op, dy.dtype(), [&]<class T>() {
    using Sum = kernels::Acc<T>;
    on_device(dy, [&](const auto& device) {
      kernels::matmul(device, Transpose::Yes, Transpose::No, dw.shape()[0], dw.shape()[1], dy.shape()[0], dy.data<T>(),
                      x.data<T>(), static_cast<Sum>(beta), dw.mutable_data<Sum>());
    });
  });
}

}  // namespace limbeck::core
