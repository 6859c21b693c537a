#include "launch/run/model_fingerprint.h"

#include <string_view>

#include "core/random.h"

namespace limbeck::launch {
namespace {

using core::Shape;

/// The row along the last dimension that lies `part` halves of the way through the others.
core::StateEntry row_at(const core::MemoryPtr& memory, const Shape& shape, std::int64_t part) {
  core::StateEntry entry{.global_shape = shape, .offset = {}, .tensor = {}};
  Shape box = shape;
  for (int d = 0; d < shape.rank(); ++d) {
    const bool is_row = d + 1 == shape.rank();
    entry.offset.push_back(is_row ? 0 : (shape[d] - 1) * part / 2);
    if (!is_row) box[d] = 1;
  }
  entry.tensor = core::Tensor::empty(memory, core::DType::F32, box);
  return entry;
}

}  // namespace

std::string model_fingerprint(const core::StateReader& reader) {
  const auto memory = core::Memory::cpu(1);
  std::uint64_t h = core::hash_seed;
  for (const auto& [name, info] : reader.tensors()) {
    if (name.starts_with("optimizer/")) continue;
    h = core::hash_name(fmt::format("{} {}\n", name, info.shape), h);
    if (info.shape.numel() == 0) continue;
    for (const std::int64_t part : {0, 1, 2}) {
      core::StateEntry row = row_at(memory, info.shape, part);
      reader.read(name, row);
      h = core::hash_name(std::string_view(reinterpret_cast<const char*>(row.tensor.raw()),
                                           static_cast<std::size_t>(row.tensor.bytes())),
                          h);
    }
  }
  return fmt::format("{:016x}", h);
}

}  // namespace limbeck::launch
