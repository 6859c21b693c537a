#include "data/models/export_tensors.h"

#include <algorithm>
#include <cstring>
#include <optional>

#include "core/error.h"
#include "data/files/mapped_file.h"
#include "data/files/ordered_work.h"
#include "data/models/gguf_blocks.h"
#include "data/models/gguf_names.h"

namespace limbeck::data {

using core::DType;
using core::Shape;

namespace {

/// The last dimension, and the rows of a matrix; a vector is one row.
std::int64_t columns_of(const Shape& shape) { return shape.rank() == 0 ? 1 : shape[shape.rank() - 1]; }
std::int64_t rows_of(const Shape& shape) { return shape.rank() < 2 ? 1 : shape[shape.rank() - 2]; }

/// Rows of one matrix.
struct Piece {
  const ExportTensor* tensor;
  std::int64_t matrix, first, count;
};

/// The pieces of the tensors from `tensor` on, in order.
class Pieces {
 public:
  Pieces(std::span<const ExportTensor> tensors, std::int64_t tensor, std::int64_t values_at_once)
      : rest_(tensors.subspan(static_cast<std::size_t>(tensor))), values_at_once_(values_at_once) {
    begin();
  }
  std::optional<Piece> next() {
    if (rest_.empty()) return std::nullopt;
    const ExportTensor& tensor = rest_.front();
    const std::int64_t rows = rows_of(tensor.shape);
    const Piece piece{&tensor, matrix_, first_, std::min(rows_at_once(tensor), rows - first_)};
    first_ += piece.count;
    if (first_ < rows) return piece;
    first_ = 0;
    if (++matrix_ < last_matrix(tensor)) return piece;
    rest_ = rest_.subspan(1);
    begin();
    return piece;
  }

 private:
  void begin() {
    if (!rest_.empty()) matrix_ = std::max<std::int64_t>(rest_.front().matrix, 0);
  }
  static std::int64_t last_matrix(const ExportTensor& tensor) {
    if (tensor.matrix >= 0) return tensor.matrix + 1;
    return tensor.shape.rank() == 3 ? tensor.shape[0] : 1;
  }
  std::int64_t rows_at_once(const ExportTensor& tensor) const {
    if (tensor.make || tensor.make_stored) return rows_of(tensor.shape);
    const std::int64_t unit = std::max<std::int64_t>(tensor.head_width, 1);
    return std::max<std::int64_t>(1, values_at_once_ / columns_of(tensor.shape) / unit) * unit;
  }

  std::span<const ExportTensor> rest_;
  std::int64_t values_at_once_;
  std::int64_t matrix_ = 0, first_ = 0;
};

/// Bytes as the file has them, of their own or of a tensor.
struct Stored {
  std::vector<std::byte> own = {};
  core::Tensor tensor = {};
  std::span<const std::byte> bytes() const {
    if (!tensor.defined()) return own;
    return {tensor.host_raw(), static_cast<std::size_t>(tensor.bytes())};
  }
};

std::span<const float> values_of(const core::Tensor& tensor) {
  return {tensor.host<float>(), static_cast<std::size_t>(tensor.numel())};
}

Stored quantized(const ExportTensor& tensor, std::span<const float> values, const std::string& where) {
  Stored stored;
  stored.own.resize(static_cast<std::size_t>(core::bytes_of(tensor.dtype, std::ssize(values))));
  try {
    quantize(tensor.dtype, values, stored.own.data());
  } catch (const core::Error& error) {
    core::fail("{}: tensor {}: {}", where, tensor.stored, error.what());
  }
  return stored;
}

/// The rows of heads, from half-split into interleaved order.
Stored interleaved(const Stored& rows, std::int64_t count, std::int64_t head_width) {
  const auto bytes = rows.bytes();
  const std::size_t row = bytes.size() / static_cast<std::size_t>(count);
  Stored result;
  result.own.resize(bytes.size());
  for (std::int64_t i = 0; i < count; ++i)
    std::memcpy(result.own.data() + static_cast<std::size_t>(interleaved_row(i, head_width)) * row,
                bytes.data() + static_cast<std::size_t>(i) * row, row);
  return result;
}

Stored stored_piece(const core::StateReader& model, const Piece& piece, const core::MemoryPtr& memory,
                    const std::string& where) {
  const ExportTensor& tensor = *piece.tensor;
  if (!tensor.values.empty()) return quantized(tensor, tensor.values, where);
  if (tensor.make_stored) return {.own = tensor.make_stored(model, piece.matrix)};
  if (tensor.make) return quantized(tensor, values_of(tensor.make(model, piece.matrix)), where);
  const int rank = tensor.shape.rank();
  Shape box = tensor.shape;
  std::vector<std::int64_t> offset(static_cast<std::size_t>(rank), 0);
  if (rank > 1) {
    box[rank - 2] = piece.count;
    offset[rank - 2] = piece.first;
  }
  if (rank == 3) {
    box[0] = 1;
    offset[0] = piece.matrix;
  }
  const auto kept = model.tensors().find(tensor.name);
  const bool is_as_kept = tensor.offset == 0 && kept != model.tensors().end() && kept->second.dtype == tensor.dtype;
  const bool is_read_so = tensor.dtype == DType::F32 || (is_as_kept && tensor.dtype == DType::BF16);
  core::StateEntry entry{tensor.shape, offset, {}, true};
  Stored stored;
  if (is_as_kept && !is_read_so) {
    const auto nowhere =
        std::make_shared<core::Storage>(memory, core::bytes_of(tensor.dtype, box.numel()), nullptr, nullptr);
    entry.tensor = core::Tensor(nowhere, 0, tensor.dtype, box);
    if (const auto lent = model.lend(tensor.name, entry, memory)) stored.tensor = *lent;
  }
  if (!stored.tensor.defined()) {
    entry.tensor = core::Tensor::empty(memory, is_read_so ? tensor.dtype : DType::F32, box);
    model.read(tensor.name, entry);
    if (tensor.offset != 0)
      for (std::int64_t i = 0; i < box.numel(); ++i)
        entry.tensor.mutable_host<float>()[i] += static_cast<float>(tensor.offset);
    if (is_read_so && tensor.offset == 0)
      stored.tensor = entry.tensor;
    else
      stored = quantized(tensor, values_of(entry.tensor), where);
  }
  return tensor.head_width > 0 && rank > 1 ? interleaved(stored, piece.count, tensor.head_width) : stored;
}

}  // namespace

std::int64_t ExportTensor::bytes() const {
  return core::bytes_of(dtype, matrix >= 0 ? shape.numel() / shape[0] : shape.numel());
}

void export_tensors(const core::StateReader& model, std::span<const ExportTensor> tensors, TensorFiles& files,
                    const ExportWork& work, std::int64_t values_at_once, const std::string& where) {
  core::check(std::ssize(tensors) == files.num_tensors(), "{}: {} tensors are for files of {}", where, tensors.size(),
              files.num_tensors());
  std::int64_t all = 0, done = 0;
  for (std::int64_t i = 0; i < std::ssize(tensors); ++i) {
    all += files.bytes_of(i);
    if (i < files.next()) done += files.bytes_of(i);
  }
  const auto report = [&] {
    if (work.progress) work.progress(done, all);
  };
  report();
  const auto memory = core::Memory::cpu(1);
  Pieces pieces(tensors, files.next(), values_at_once);
  OrderedWork<Piece, Stored> rows;
  rows.most_cost = 2 * work.threads;
  rows.read = [&] { return pieces.next(); };
  rows.work = [&](const Piece& piece) { return stored_piece(model, piece, memory, where); };
  rows.write = [&](Stored&& stored) {
    files.write(stored.bytes());
    release_mapped(stored.bytes());
    done += std::ssize(stored.bytes());
    report();
  };
  rows.run(work.threads);
}

}  // namespace limbeck::data
