#include "core/nn/student/vocabulary_rows.h"

#include <algorithm>

namespace limbeck::nn {

namespace {

bool has_a_row_a_token(const std::string& name) {
  return name == "embed.weight" || name == "head.weight" || name == "head.bias";
}

}  // namespace

VocabularyRows::VocabularyRows(const core::StateReader& source, std::int64_t vocabulary)
    : source_(source), tensors_(source.tensors()) {
  for (auto& [name, info] : tensors_)
    if (has_a_row_a_token(name)) info.shape[0] = vocabulary;
}

void VocabularyRows::fill(const std::string& name, const core::StateInfo&, core::StateEntry& entry) const {
  const core::Shape& stored = source_.tensors().at(name).shape;
  if (stored == entry.global_shape) return source_.read(name, entry);
  const std::int64_t rows = entry.tensor.shape()[0];
  const std::int64_t there = std::clamp<std::int64_t>(stored[0] - entry.offset[0], 0, rows);
  if (there > 0) {
    core::StateEntry part{stored, entry.offset, entry.tensor.rows(0, there), true};
    source_.read(name, part);
  }
  if (there < rows) entry.tensor.rows(there, rows - there).fill_zero();
}

std::optional<core::Tensor> VocabularyRows::lend_box(const std::string& name, const core::StateInfo&,
                                                     const core::StateEntry& entry,
                                                     const core::MemoryPtr& memory) const {
  if (source_.tensors().at(name).shape != entry.global_shape) return std::nullopt;
  return source_.lend(name, entry, memory);
}

}  // namespace limbeck::nn
