#include "core/nn/student/token_rows.h"

#include <algorithm>
#include <utility>

namespace limbeck::nn {

using core::StateEntry;
using core::Tensor;

namespace {

bool has_a_row_a_token(const std::string& name) {
  return name == "embed.weight" || name == "head.weight" || name == "head.bias";
}

}  // namespace

TokenRows::TokenRows(std::shared_ptr<const core::StateReader> source, std::vector<std::int64_t> ids)
    : source_(std::move(source)), ids_(std::move(ids)), tensors_(source_->tensors()) {
  for (auto& [name, info] : tensors_) {
    if (!has_a_row_a_token(name)) continue;
    for (const std::int64_t id : ids_)
      core::check(id >= 0 && id < info.shape[0], "{}: {} has {} rows, expected one of token {}", source_->source(),
                  name, info.shape[0], id);
    info.shape[0] = std::ssize(ids_);
  }
}

void TokenRows::fill(const std::string& name, const core::StateInfo& /*info*/, StateEntry& entry) const {
  if (!has_a_row_a_token(name)) return source_->read(name, entry);
  const std::int64_t rows = entry.tensor.shape()[0];
  StateEntry theirs = entry;
  theirs.global_shape = source_->tensors().at(name).shape;
  for (std::int64_t row = 0; row < rows;) {
    const std::int64_t first = ids_[static_cast<std::size_t>(entry.offset[0] + row)];
    std::int64_t count = 1;  // of rows that follow each other there too
    while (row + count < rows && ids_[static_cast<std::size_t>(entry.offset[0] + row + count)] == first + count)
      ++count;
    theirs.offset[0] = first;
    theirs.tensor = entry.tensor.rows(row, count);
    source_->read(name, theirs);
    row += count;
  }
}

std::optional<Tensor> TokenRows::lend_box(const std::string& name, const core::StateInfo& /*info*/,
                                          const StateEntry& entry, const core::MemoryPtr& memory) const {
  return has_a_row_a_token(name) ? std::nullopt : source_->lend(name, entry, memory);
}

}  // namespace limbeck::nn
