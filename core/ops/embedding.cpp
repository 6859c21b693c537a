#include "core/ops/embedding.h"

#include "core/device/index_check.h"
#include "core/ops/product.h"
#include "kernels/embedding.h"

namespace limbeck::core {

Var embedding(Tape& tape, const Tensor& tokens, const Var& weight, const VocabularyPart& part,
              std::optional<DType> dtype) {
  check(tokens.shape().rank() == 1, "embedding: tokens have shape {}, expected [T]", tokens.shape());
  check(weight.shape().rank() == 2, "embedding: weight has shape {}, expected [V,C]", weight.shape());
  const std::int64_t count = tokens.shape()[0], rows = weight.shape()[0], width = weight.shape()[1];
  const std::int64_t vocabulary = part.total < 0 ? rows : part.total;
  const std::int64_t offset = part.first;
  const DType stored = weight.value.dtype();
  check_indices(tokens, 0, vocabulary, [=](std::int64_t at, std::int64_t id) {
    return fmt::format("embedding: token {} at position {} is not in the vocabulary of {}", id, at, vocabulary);
  });

  const auto blocks = blocks_of(weight.value);
  const DType sums = blocks ? DType::F32 : sum_dtype(stored);
  Tensor y = Tensor::empty(weight.value.memory(), dtype.value_or(sums), {count, width});
  check(sum_dtype(y.dtype()) == sums, "embedding: result is {}, expected {}{}", y.dtype(), sums,
        sums == DType::F32 ? " or bfloat16" : "");
  dispatch_activation("embedding", y.dtype(), [&]<class T>() {
    using Wide = kernels::Acc<T>;
    on_device(y, [&](const auto& device) {
      const auto run = [&](const auto* table) {
        kernels::embedding(device, tokens.data<std::int32_t>(), table, y.mutable_data<T>(), count, width, offset, rows);
      };
      if (blocks) {
        if constexpr (std::is_same_v<Wide, float>)
          kernels::blocks_embedding(device, tokens.data<std::int32_t>(), *blocks, y.mutable_data<T>(), count, width,
                                    offset, rows);
      } else if (stored != DType::BF16)
        run(weight.value.data<Wide>());
      else if constexpr (std::is_same_v<Wide, float>)
        run(weight.value.data<bf16>());
    });
  });
  Var out = tape.output(std::move(y), {&weight});
  if (!out.slot) return out;

  Tape::Step step{"embedding", {}, {}, {weight.slot}};
  step.weight_part = [=, slot = out.slot, like = outline(out.value), to = weight.slot, id = Saved(tokens),
                      table = outline(weight.value, sums)] {
    const Tensor dy = gradient(slot, like);
    GradientTarget dweight = open_gradient(to, table);
    dispatch_activation("embedding", dy.dtype(), [&]<class T>() {
      on_device(dy, [&](const auto& device) {
        kernels::embedding_gradient(device, id.get().data<std::int32_t>(), dy.data<T>(), dweight.beta != 0,
                                    dweight.tensor.mutable_data<kernels::Acc<T>>(), count, width, offset, rows);
      });
    });
  };
  tape.push(std::move(step));
  return out;
}

}  // namespace limbeck::core
