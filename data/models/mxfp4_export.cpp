#include "data/models/mxfp4_export.h"

#include <cstring>
#include <optional>

#include "core/error.h"
#include "data/models/gguf_blocks.h"

namespace limbeck::data {

using core::DType;
using core::Shape;
using core::Tensor;

namespace {

constexpr std::int64_t block = 32, packed = 16, ggml_block = 1 + packed;

/// Matrix `matrix` of the stack as ggml has it: a row's blocks one behind the other.
Tensor blocks_of(const core::StateReader& model, const HuggingFaceName& part, std::int64_t matrix) {
  const auto memory = core::Memory::cpu(1);
  Shape box = part.shape;
  box[0] = 1;
  core::StateEntry entry{part.shape, {matrix, 0, 0}, Tensor::empty(memory, DType::F32, box), true};
  const auto kept = model.tensors().find(part.name);
  if (kept != model.tensors().end() && kept->second.dtype == DType::MXFP4)
    if (const std::optional<Tensor> lent = model.lend(part.name, entry, memory)) return *lent;
  model.read(part.name, entry);
  Tensor blocks = Tensor::empty(memory, DType::MXFP4, box);
  const auto* values = entry.tensor.host<float>();
  quantize(DType::MXFP4, {values, values + entry.tensor.numel()}, blocks.mutable_host_raw());
  return blocks;
}

/// ggml has value i in the low and value 16 + i in the high half of a byte, this format 2 i and 2 i + 1.
void repack(const std::byte* from, std::byte* to) {
  const auto value = [&](std::int64_t i) { return i < packed ? from[i] & std::byte{15} : from[i - packed] >> 4; };
  for (std::int64_t i = 0; i < packed; ++i) to[i] = value(2 * i) | value(2 * i + 1) << 4;
}

enum class Half : std::uint8_t { Blocks, Scales };

std::vector<std::byte> stored(const core::StateReader& model, const std::vector<const HuggingFaceName*>& parts,
                              std::int64_t matrix, Half half) {
  const Shape& all = parts.front()->stored_shape;  // [E,K,N]
  const std::int64_t blocks_a_row = all[1] / block, size = half == Half::Blocks ? packed : 1;
  std::vector<std::byte> bytes(static_cast<std::size_t>(all[2] * blocks_a_row * size));
  for (const HuggingFaceName* part : parts) {
    const Tensor blocks = blocks_of(model, *part, matrix);
    const std::byte* from = blocks.host_raw();
    for (std::int64_t row = 0; row < part->shape[1]; ++row) {
      std::byte* to = bytes.data() + (part->first + row * part->strides[1]) * blocks_a_row * size;
      for (std::int64_t i = 0; i < blocks_a_row; ++i, from += ggml_block, to += size)
        if (half == Half::Blocks)
          repack(from + 1, to);
        else
          *to = *from;
    }
  }
  return bytes;
}

}  // namespace

std::vector<PlannedTensor> mxfp4_tensors(const std::vector<const HuggingFaceName*>& parts) {
  const std::string& name = parts.front()->stored.front();
  const Shape& all = parts.front()->stored_shape;
  const std::int64_t blocks_a_row = all[1] / block;
  core::check(all[1] % block == 0, "Hugging Face export: {} {} has rows of {} values, expected a multiple of {} for {}",
              name, all, all[1], block, DType::MXFP4);
  const auto tensor = [&](const char* end, const Shape& shape, const Shape& of_three, Half half) {
    PlannedTensor planned{{name + end, DType::U8, shape}, {}};
    planned.tensor.stored = planned.plan.name;
    planned.tensor.shape = of_three;
    planned.tensor.dtype = DType::U8;
    planned.tensor.make_stored = [&parts, half](const core::StateReader& model, std::int64_t matrix) {
      return stored(model, parts, matrix, half);
    };
    return planned;
  };
  return {
      tensor("_blocks", {all[0], all[2], blocks_a_row, packed}, {all[0], all[2], blocks_a_row * packed}, Half::Blocks),
      tensor("_scales", {all[0], all[2], blocks_a_row}, {all[0], all[2], blocks_a_row}, Half::Scales)};
}

}  // namespace limbeck::data
