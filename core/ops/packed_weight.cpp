#include "core/ops/packed_weight.h"

#include <algorithm>

#include "kernels/packed.h"

namespace limbeck::core {

using kernels::Transpose;

Tensor packed_weight(const Tensor& weight, Transpose transpose) {
  const Shape& shape = weight.shape();
  check(shape.rank() == 2 || shape.rank() == 3, "pack: weight has shape {}, expected [out,in] or [E,out,in]", shape);
  check(weight.dtype() == DType::F32 || weight.dtype() == DType::BF16,
        "pack: weight is {}, expected float32 or bfloat16 beside bfloat16 activations", weight.dtype());
  const std::int64_t count = shape.rank() == 3 ? shape[0] : 1;
  const std::int64_t out = shape[shape.rank() - 2], in = shape[shape.rank() - 1];
  const std::int64_t k = transpose == Transpose::Yes ? in : out, n = transpose == Transpose::Yes ? out : in;
  const Shape packed_shape{count * kernels::packed_elements(k, n)};

  std::vector<Storage::Made>& made = weight.storage()->made();
  const int kind = static_cast<int>(transpose);
  auto it = std::ranges::find_if(made, [&](const Storage::Made& m) {
    return m.kind == kind && m.byte_offset == weight.byte_offset() && m.shape == shape;
  });
  if (it == made.end()) {
    const Tensor fresh = Tensor::empty(weight.memory(), DType::BF16, packed_shape);
    it = made.insert(it, {kind, weight.byte_offset(), shape, std::nullopt, fresh.storage()});
  }
  Tensor packed(it->storage, 0, DType::BF16, packed_shape);
  if (it->version == weight.version()) return packed;
  on_device(weight, [&](const auto& device) {
    const auto pack = [&](const auto* values) {
      kernels::pack(device, count, transpose, k, n, values, packed.mutable_data<bf16>());
    };
    if (weight.dtype() == DType::BF16)
      pack(weight.data<bf16>());
    else
      pack(weight.data<float>());
  });
  it->version = weight.version();
  return packed;
}

}  // namespace limbeck::core
