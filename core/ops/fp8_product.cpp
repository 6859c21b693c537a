#include "core/ops/fp8_product.h"

#include "core/ops/made_form.h"

namespace limbeck::core {

using kernels::e4m3;
using kernels::Transpose;

namespace {

/// Codes and scales that lie behind each other in bytes of one tensor, each from a multiple of 256 on.
class Bytes {
 public:
  /// Where `count` more values begin.
  template <class T>
  std::int64_t add(std::int64_t count) {
    const std::int64_t at = end_;
    end_ += (count * static_cast<std::int64_t>(sizeof(T)) + 255) / 256 * 256;
    return at;
  }
  Shape shape() const { return {end_}; }

 private:
  std::int64_t end_ = 0;
};

template <class T>
T* at(Tensor& bytes, std::int64_t offset) {
  return reinterpret_cast<T*>(bytes.mutable_data<std::uint8_t>() + offset);
}

kernels::Fp8Factor factor(const Tensor& bytes, std::int64_t values, std::int64_t scales) {
  const std::uint8_t* begin = bytes.data<std::uint8_t>();
  return {reinterpret_cast<const e4m3*>(begin + values), reinterpret_cast<const float*>(begin + scales)};
}

}  // namespace

Fp8Weight fp8_weight(const Tensor& weight) {
  const std::int64_t out = weight.shape()[0], in = weight.shape()[1];
  Bytes bytes;
  const std::int64_t values = bytes.add<e4m3>(out * in), transposed = bytes.add<e4m3>(out * in);
  const std::int64_t scales = bytes.add<float>(kernels::num_block_scales(out, in));
  const std::int64_t transposed_scales = bytes.add<float>(kernels::num_block_scales(in, out));
  Storage::Made& made = made_of(weight, Form::Fp8);
  if (made.storage == nullptr) {
    Tensor fresh = Tensor::empty(weight.memory(), DType::U8, bytes.shape());
    on_device(weight, [&](const auto& device) {
      const auto quantise = [&](const auto* w) {
        kernels::quantise_blocks(device, out, in, w, at<e4m3>(fresh, values), at<float>(fresh, scales),
                                 at<e4m3>(fresh, transposed), at<float>(fresh, transposed_scales));
      };
      if (weight.dtype() == DType::BF16)
        quantise(weight.data<bf16>());
      else
        quantise(weight.data<float>());
    });
    made.storage = fresh.storage();
  }
  const Tensor memory(made.storage, 0, DType::U8, bytes.shape());
  return {factor(memory, values, scales), factor(memory, transposed, transposed_scales), memory};
}

void fp8_product(std::string_view op, const Tensor& a, Transpose transpose, const Tensor& weight, double beta,
                 Tensor c) {
  check(a.dtype() == DType::BF16, "{}: activations are {}, expected bfloat16 for products in FP8", op, a.dtype());
  check(weight.dtype() == DType::F32 || weight.dtype() == DType::BF16,
        "{}: weight is {}, expected float32 or bfloat16 for products in FP8", op, weight.dtype());
  const std::int64_t m = a.shape()[0], k = a.shape()[1], n = c.shape()[1];
  const Fp8Weight forms = fp8_weight(weight);
  Bytes bytes;
  const std::int64_t values = bytes.add<e4m3>(m * k), scales = bytes.add<float>(kernels::num_row_scales(m, k));
  Tensor rows = Tensor::empty(a.memory(), DType::U8, bytes.shape());
  on_device(a, [&](const auto& device) {
    kernels::quantise_rows(device, m, k, a.data<bf16>(), at<e4m3>(rows, values), at<float>(rows, scales));
    const auto multiply = [&](auto* to) {
      kernels::fp8_matmul(device, m, n, k, factor(rows, values, scales),
                          transpose == Transpose::Yes ? forms.forward : forms.backward, static_cast<float>(beta), to);
    };
    if (c.dtype() == DType::BF16)
      multiply(c.mutable_data<bf16>());
    else
      multiply(c.mutable_data<float>());
  });
}

}  // namespace limbeck::core
