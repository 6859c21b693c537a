#include "core/nn/student/vocabulary_rows.h"

#include <algorithm>
#include <limits>

#include "kernels/distillation.h"

namespace limbeck::nn {

namespace {

using core::DType;
using core::Shape;
using core::StateEntry;
using core::Tensor;

constexpr const char* bias_of_head = "head.bias";
constexpr std::int64_t behind_all = std::numeric_limits<std::int64_t>::max() / 2;  // a row that no source has

bool has_a_row_a_token(const std::string& name) {
  return name == "embed.weight" || name == "head.weight" || name == bias_of_head;
}

/// Rows [first, first + count) of an entry, as those of the source from `from` on.
StateEntry rows_of(StateEntry& entry, const Shape& stored, std::int64_t first, std::int64_t count, std::int64_t from) {
  StateEntry part{stored, entry.offset, entry.tensor.rows(first, count), true};
  part.offset[0] = from;
  return part;
}

}  // namespace

bool TokenRows::lacks_any() const { return std::ranges::count(rows, -1) > 0; }

VocabularyRows::VocabularyRows(const core::StateReader& source, std::int64_t vocabulary, std::optional<TokenRows> rows)
    : source_(source), rows_(std::move(rows)), tensors_(source.tensors()) {
  if (rows_ && rows_->lacks_any()) tensors_.emplace(bias_of_head, core::StateInfo{Shape{vocabulary}, DType::F32});
  for (auto& [name, info] : tensors_)
    if (has_a_row_a_token(name)) info.shape[0] = vocabulary;
  if (rows_) rows_->rows.resize(static_cast<std::size_t>(vocabulary), behind_all);
}

void VocabularyRows::fill(const std::string& name, const core::StateInfo&, StateEntry& entry) const {
  if (rows_ && has_a_row_a_token(name)) return gather(name, entry);
  const Shape& stored = source_.tensors().at(name).shape;
  if (stored == entry.global_shape) return source_.read(name, entry);
  const std::int64_t rows = entry.tensor.shape()[0];
  const std::int64_t there = std::clamp<std::int64_t>(stored[0] - entry.offset[0], 0, rows);
  if (there > 0) {
    StateEntry part{stored, entry.offset, entry.tensor.rows(0, there), true};
    source_.read(name, part);
  }
  if (there < rows) entry.tensor.rows(there, rows - there).fill_zero();
}

/// By runs of rows that follow each other in the source too.
void VocabularyRows::gather(const std::string& name, StateEntry& entry) const {
  entry.tensor.fill_zero();
  const auto found = source_.tensors().find(name);
  const std::int64_t stored_rows = found == source_.tensors().end() ? 0 : found->second.shape[0];
  const auto row_of = [&](std::int64_t i) { return rows_->rows[static_cast<std::size_t>(entry.offset[0] + i)]; };
  const std::int64_t count = entry.tensor.shape()[0];
  for (std::int64_t first = 0, end = 0; first < count; first = end) {
    end = first + 1;
    const std::int64_t from = row_of(first);
    if (from < 0) {
      StateEntry row{entry.global_shape, entry.offset, entry.tensor.rows(first, 1), true};
      fill_lacking(name, entry.offset[0] + first, row);
      continue;
    }
    while (end < count && row_of(end) == from + end - first) ++end;
    const std::int64_t there = std::clamp<std::int64_t>(stored_rows - from, 0, end - first);
    if (there == 0) continue;
    StateEntry part = rows_of(entry, found->second.shape, first, there, from);
    source_.read(name, part);
  }
}

/// `row` is the one of its entry that is filled, of zeros.
void VocabularyRows::fill_lacking(const std::string& name, std::int64_t token, StateEntry& row) const {
  Tensor wide = Tensor::zeros(row.tensor.memory(), DType::F64, row.tensor.shape());
  double* sum = wide.mutable_host<double>();
  if (name == bias_of_head) {
    *sum = static_cast<double>(kernels::lacking_logit);
  } else if (const auto pieces = rows_->pieces.find(token); name == "embed.weight" && pieces != rows_->pieces.end()) {
    StateEntry piece{source_.tensors().at(name).shape, row.offset, core::empty_like(row.tensor), true};
    for (const std::int64_t from : pieces->second) {
      piece.offset[0] = from;
      source_.read(name, piece);
      const Tensor exact = piece.tensor.to(DType::F64);
      const double* values = exact.host<double>();
      for (std::int64_t c = 0; c < wide.numel(); ++c) sum[c] += values[c] / static_cast<double>(pieces->second.size());
    }
  } else {
    return;
  }
  row.tensor.copy_from(wide.to(row.tensor.dtype()));
}

std::optional<Tensor> VocabularyRows::lend_box(const std::string& name, const core::StateInfo&, const StateEntry& entry,
                                               const core::MemoryPtr& memory) const {
  if (rows_ && has_a_row_a_token(name)) return std::nullopt;
  if (source_.tensors().at(name).shape != entry.global_shape) return std::nullopt;
  return source_.lend(name, entry, memory);
}

}  // namespace limbeck::nn
