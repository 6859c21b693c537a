#include "launch/run/model_fingerprint.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

#include <algorithm>

#include "core/random.h"
#include "launch/run/model_source.h"

namespace limbeck::launch {
namespace {

using core::Shape;

constexpr std::int64_t most_values = std::int64_t{1} << 22U;  // of a tensor

/// Row `row` of those along the last dimension.
core::StateEntry row_at(const core::MemoryPtr& memory, const Shape& shape, std::int64_t row) {
  core::StateEntry entry{.global_shape = shape, .offset = {}, .tensor = {}};
  entry.offset.assign(static_cast<std::size_t>(shape.rank()), 0);
  Shape box = shape;
  for (int d = shape.rank() - 2; d >= 0; --d) {
    entry.offset[static_cast<std::size_t>(d)] = row % shape[d];
    row /= shape[d];
    box[d] = 1;
  }
  entry.tensor = core::Tensor::empty(memory, core::DType::F32, box);
  return entry;
}

}  // namespace

std::string model_fingerprint(const core::StateReader& reader, const nn::ModelConfig& config) {
  const auto memory = core::Memory::cpu(1);
  std::uint64_t h = core::hash_name(to_json(config).dump(), core::hash_seed);
  const auto add = [&](const std::string& name, core::StateEntry entry) {
    reader.read(name, entry);
    h = XXH3_64bits_withSeed(entry.tensor.host_raw(), static_cast<std::size_t>(entry.tensor.bytes()), h);
  };
  for (const auto& [name, info] : reader.tensors()) {
    if (!core::is_of_model(name)) continue;
    const Shape& shape = info.shape;
    h = core::hash_name(fmt::format("{} {}\n", name, shape), h);
    if (shape.numel() <= most_values) {
      if (shape.numel() > 0) add(name, core::StateEntry::whole(core::Tensor::empty(memory, core::DType::F32, shape)));
      continue;
    }
    const std::int64_t width = shape[shape.rank() - 1];
    const std::int64_t rows = shape.numel() / width;
    const std::int64_t taken = std::clamp<std::int64_t>(most_values / width, 1, rows);
    for (std::int64_t i = 0; i < taken; ++i) add(name, row_at(memory, shape, i * rows / taken));
  }
  return fmt::format("{:016x}", h);
}

}  // namespace limbeck::launch
