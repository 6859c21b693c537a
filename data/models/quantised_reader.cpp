#include "data/models/quantised_reader.h"

#include <algorithm>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "core/error.h"
#include "data/files/ordered_work.h"
#include "data/models/gguf_blocks.h"

namespace limbeck::data {

using core::DType;
using core::Shape;
using core::Tensor;

QuantisedReader::QuantisedReader(const core::StateReader& source, const nn::ModelConfig& config, DType wanted,
                                 int threads, const std::string& what)
    : source_(source), threads_(threads), tensors_(source.tensors()), kept_(gguf_kept(config, wanted, what)) {
  for (auto& [name, info] : tensors_)
    if (is_rounded(name)) info.dtype = kept_.at(name).dtype;
}

/// Blocks of a matrix that is transposed in the file would be no rows here: it stays as it is.
bool QuantisedReader::is_rounded(const std::string& name) const {
  const auto kept = kept_.find(name);
  return kept != kept_.end() && kept->second.dtype != DType::F32 && !kept->second.is_transposed;
}

Tensor QuantisedReader::rounded(const std::string& name, const core::StateInfo& info,
                                const std::vector<std::int64_t>& offset, const Shape& box,
                                const core::MemoryPtr& memory) const {
  constexpr std::int64_t values_at_once = std::int64_t{1} << 18U;
  const int last = box.rank() - 1;
  const std::int64_t columns = box[last], rows = box[last - 1], matrices = box.numel() / (rows * columns);
  const std::int64_t most_rows = std::max<std::int64_t>(1, values_at_once / columns);
  Tensor all = Tensor::empty(memory, info.dtype, box);
  std::byte* const out = all.mutable_host_raw();
  const auto floats = core::Memory::cpu(1);

  struct Piece {
    std::int64_t matrix, first, count;  // rows of one matrix of the box
  };
  std::int64_t matrix = 0, first = 0;
  OrderedWork<Piece, bool> pieces;
  pieces.most_cost = 2 * threads_;
  pieces.read = [&]() -> std::optional<Piece> {
    if (matrix == matrices) return std::nullopt;
    const Piece piece{matrix, first, std::min(most_rows, rows - first)};
    first += piece.count;
    if (first == rows) first = 0, ++matrix;
    return piece;
  };
  pieces.work = [&](const Piece& piece) {
    core::StateEntry part{info.shape, offset, {}, true};
    Shape part_box = box;
    if (last == 2) part_box[0] = 1, part.offset[0] += piece.matrix;
    part_box[last - 1] = piece.count;
    part.offset[static_cast<std::size_t>(last) - 1] += piece.first;
    part.tensor = Tensor::empty(floats, DType::F32, part_box);
    source_.read(name, part);
    const std::span values(part.tensor.host<float>(), static_cast<std::size_t>(part_box.numel()));
    quantize(info.dtype, values, out + core::bytes_of(info.dtype, (piece.matrix * rows + piece.first) * columns));
    return true;
  };
  pieces.write = [](bool) {};
  pieces.run(threads_);
  return all;
}

std::optional<Tensor> QuantisedReader::lend_box(const std::string& name, const core::StateInfo& info,
                                                const core::StateEntry& entry, const core::MemoryPtr& memory) const {
  const Shape& box = entry.tensor.shape();
  const auto last = static_cast<std::size_t>(box.rank()) - 1;
  const auto kept = kept_.find(name);
  if (kept != kept_.end() && kept->second.dtype == DType::F32) {
    core::StateEntry copy{info.shape, entry.offset, Tensor::empty(memory, DType::F32, box), true};
    source_.read(name, copy);
    return copy.tensor;
  }
  const std::int64_t elements = core::info(info.dtype).block_elements;
  if (!is_rounded(name) || box[box.rank() - 1] % elements != 0 || entry.offset[last] % elements != 0)
    return std::nullopt;
  return rounded(name, info, entry.offset, box, memory);
}

void QuantisedReader::fill(const std::string& name, const core::StateInfo& info, core::StateEntry& entry) const {
  if (!is_rounded(name)) return source_.read(name, entry);
  const Shape& box = entry.tensor.shape();
  const auto last = static_cast<std::size_t>(box.rank()) - 1;
  const std::int64_t elements = core::info(info.dtype).block_elements, columns = box[box.rank() - 1];
  std::vector<std::int64_t> offset = entry.offset;
  offset[last] -= offset[last] % elements;
  const std::int64_t skipped = entry.offset[last] - offset[last];
  Shape whole = box;
  whole[box.rank() - 1] = (skipped + columns + elements - 1) / elements * elements;
  const auto floats = core::Memory::cpu(1);
  const Tensor blocks = rounded(name, info, offset, whole, floats);
  const std::int64_t rows = box.numel() / columns;
  Tensor row = Tensor::empty(floats, DType::F32, {columns});
  Tensor all = entry.tensor.reshape({rows, columns});
  for (std::int64_t i = 0; i < rows; ++i) {
    dequantize(info.dtype, blocks.host_raw(), i * whole[box.rank() - 1] + skipped, columns, row.mutable_host<float>());
    all.rows(i, 1).copy_from(row.to(all.dtype()).reshape({1, columns}));
  }
}

}  // namespace limbeck::data
