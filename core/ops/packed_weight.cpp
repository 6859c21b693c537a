#include "core/ops/packed_weight.h"

#include <algorithm>

#include "core/ops/made_form.h"

namespace limbeck::core {

using kernels::Transpose;

namespace {

constexpr std::int64_t uses_worth_packing = 3;

Form packed_form(Transpose transpose) { return transpose == Transpose::Yes ? Form::PackedTransposed : Form::Packed; }

/// The weight's present values rounded, in their own order.
Tensor rounded_weight(const Tensor& weight) {
  Storage::Made& made = made_of(weight, Form::Rounded);
  if (made.storage == nullptr) made.storage = weight.to(DType::BF16).storage();
  return {made.storage, 0, DType::BF16, weight.shape()};
}

Factor as_it_lies(const Tensor& weight, Transpose transpose) {
  const Tensor narrow = weight.dtype() == DType::BF16 ? weight : rounded_weight(weight);
  return {{transpose, narrow.data<bf16>()}, narrow};
}

}  // namespace

Factor packed_weight(const Tensor& weight, Transpose transpose) {
  const Shape& shape = weight.shape();
  check(shape.rank() == 2 || shape.rank() == 3, "pack: weight has shape {}, expected [out,in] or [E,out,in]", shape);
  check(weight.dtype() == DType::F32 || weight.dtype() == DType::BF16,
        "pack: weight is {}, expected float32 or bfloat16 beside bfloat16 activations", weight.dtype());
  const auto with_values = [&](auto&& f) {
    return weight.dtype() == DType::BF16 ? f(weight.data<bf16>()) : f(weight.data<float>());
  };
  const bool is_imagined = weight.memory()->is_imagined();
  if (is_imagined && weight.memory()->has_queue()) return as_it_lies(weight, transpose);  // as GPUs do
  return on_device(weight, [&](const auto& device) -> Factor {
    if constexpr (std::decay_t<decltype(device)>::reads_factors_as_they_lie) {
      return as_it_lies(weight, transpose);
    } else {
      const bool is_lent = weight.storage()->is_lent();  // from a mapped file, which may be more than memory holds
      Storage::Made& made = made_of(weight, packed_form(transpose));
      if (is_lent || ++made.wanted < uses_worth_packing)
        return with_values([&](const auto* values) { return Factor{{transpose, values}, {}}; });

      const std::int64_t count = shape.rank() == 3 ? shape[0] : 1;
      const std::int64_t out = shape[shape.rank() - 2], in = shape[shape.rank() - 1];
      const std::int64_t k = transpose == Transpose::Yes ? in : out, n = transpose == Transpose::Yes ? out : in;
      const Shape packed_shape{count * kernels::packed_elements(k, n)};
      if (made.storage == nullptr) {
        Tensor packed = Tensor::empty(weight.memory(), DType::BF16, packed_shape);
        if (!is_imagined)
          with_values([&](const auto* values) {
            kernels::pack(device, count, transpose, k, n, values, packed.mutable_data<bf16>());
          });
        made.storage = packed.storage();
      }
      const Tensor packed(made.storage, 0, DType::BF16, packed_shape);
      return {packed.data<bf16>(), packed};
    }
  });
}

Tensor rounded_to_write(const Tensor& weight) {
  Storage::Made* made = find_made(weight, Form::Rounded);
  if (made == nullptr || made->storage == nullptr || made->version + 1 != weight.version()) return {};
  made->version = weight.version();
  return {made->storage, 0, DType::BF16, weight.shape()};
}

void expect_uses(const Tensor& weight, Transpose transpose) {
  if (weight.storage()->is_lent()) return;
  Storage::Made& made = made_of(weight, packed_form(transpose));
  made.wanted = std::max(made.wanted, uses_worth_packing - 1);
}

}  // namespace limbeck::core
