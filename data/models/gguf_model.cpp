#include "data/models/gguf_model.h"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <optional>
#include <set>
#include <utility>
#include <vector>

#include "core/error.h"
#include "data/models/gguf_config.h"
#include "data/models/gguf_equal.h"
#include "data/models/gguf_names.h"
#include "data/models/layers_behind.h"

namespace limbeck::data {

using core::check;
using core::DType;
using core::Shape;

namespace {

void store(const std::vector<float>& row, DType dtype, std::byte* at) {
  if (dtype == DType::F64)
    std::copy(row.begin(), row.end(), reinterpret_cast<double*>(at));
  else
    std::transform(row.begin(), row.end(), reinterpret_cast<core::bf16*>(at), [](float x) { return core::bf16(x); });
}

}  // namespace

GgufModel::GgufModel(std::shared_ptr<const GgufFile> file) : file_(std::move(file)) {
  const GgufConfig read = read_gguf_config(*file_);
  const Family& family = *read.family;
  config_ = read.model;
  std::set<const GgufTensor*> used;
  const bool joined_kv = file_->tensors().contains("blk.0.attn_kv_b.weight");
  const auto has = [&](const std::string& stored) { return file_->tensors().contains(stored); };
  std::vector<GgufName> copies;
  for (GgufName& name : gguf_names(config_, family, joined_kv)) {
    if (name.is_copy) {
      if (has(name.stored)) copies.push_back(name);
      continue;
    }
    if (!name.otherwise.empty() && !has(name.stored)) name.stored = name.otherwise;
    Origin origin = find(name);
    used.insert(origin.tensors.begin(), origin.tensors.end());
    tensors_[name.name] = {name.shape, origin.tensors.front()->dtype};
    origins_[name.name] = std::move(origin);
  }
  for (const GgufName& name : copies) {
    const GgufTensor &copied = *find(name).tensors.front(), &of = *origins_.at(name.name).tensors.front();
    used.insert(&copied);
    constexpr std::size_t most_runs = 4;  // it is not to be read whole to be left alone
    if (copied.dtype == of.dtype && !are_equal(*file_, copied, of, most_runs))
      notices_.push_back(fmt::format("{}: {} differs from what it is a copy of, {}, which is taken", source(),
                                     name.stored, name.name));
  }
  const std::int64_t num_layers = config_.num_layers + config_.num_predict_layers;
  const std::int64_t end = config_.num_layers + read.num_layers_behind;
  std::int64_t num_skipped = 0;
  for (const auto& [name, tensor] : file_->tensors()) {
    if (is_of_a_layer_behind(name, "blk.", num_layers) && !is_of_a_layer_behind(name, "blk.", end)) {
      ++num_skipped;
      continue;
    }
    check(used.contains(&tensor) || is_of_config(family, name) || (config_.tied_head && name == "output.weight"),
          "{}: tensor {} {} has no place in a {} model of {} layers", source(), name, tensor.shape, family.gguf,
          num_layers);
  }
  if (num_skipped > 0) notices_.push_back(notice_of_layers_behind(source(), num_skipped, num_layers));
}

GgufModel::Origin GgufModel::find(const GgufName& name) const {
  const auto tensor = [&](const std::string& stored, const Shape& shape) {
    const auto found = file_->tensors().find(stored);
    check(found != file_->tensors().end(), "{}: has no tensor {}, expected one of shape {}", source(), stored, shape);
    check(found->second.shape == shape, "{}: tensor {} has shape {}, expected {}", source(), stored,
          found->second.shape, shape);
    return &found->second;
  };
  Origin origin{.tensors = {},
                .is_permuted = name.is_permuted,
                .offset = static_cast<float>(name.offset),
                .rows = name.rows,
                .is_decay = name.is_decay,
                .transposed_heads = name.is_transposed ? name.num_heads : 0};
  if (name.shape.rank() == 3 && file_->tensors().contains(gguf_expert_name(name.stored, 0)))
    for (std::int64_t e = 0; e < name.shape[0]; ++e)
      origin.tensors.push_back(tensor(gguf_expert_name(name.stored, e), Shape(name.shape.extents().subspan(1))));
  else
    origin.tensors.push_back(tensor(name.stored, name.stored_shape()));
  return origin;
}

std::int64_t GgufModel::transposed_heads(const std::string& name) const { return origins_.at(name).transposed_heads; }

void GgufModel::fill(const std::string& name, const core::StateInfo& info, core::StateEntry& entry) const {
  const Shape& global = info.shape;
  const Shape& box = entry.tensor.shape();
  const int rank = global.rank();
  const DType dtype = entry.tensor.dtype();
  check(dtype == DType::F32 || dtype == DType::F64 || dtype == DType::BF16,
        "{}: {}: cannot be read as {}, expected float32, float64 or bfloat16", source(), name, dtype);

  const Origin& origin = origins_.at(name);
  const std::int64_t columns = columns_of(origin, box), row_bytes = core::bytes_of(dtype, columns);
  std::vector<float> row(dtype == DType::F32 ? 0 : static_cast<std::size_t>(columns));
  std::byte* out = entry.tensor.mutable_host_raw();
  if (origin.transposed_heads > 0) return fill_transposed(origin, global, entry);
  const std::byte *begin = nullptr, *end = nullptr;  // of what is read
  std::int64_t read = 0;
  for_each_row(origin, global, entry, [&](std::int64_t i, const GgufTensor& tensor, std::int64_t first) {
    const auto [at, bytes] = blocks_of(tensor, first, columns);
    read += bytes;
    begin = begin == nullptr ? at : std::min(begin, at);
    end = std::max(end, at + bytes);
    std::byte* to = out + i * row_bytes;
    float* const values = dtype == DType::F32 ? reinterpret_cast<float*>(to) : row.data();
    file_->read(tensor, first, columns, values);
    if (origin.offset != 0)
      for (std::int64_t c = 0; c < columns; ++c) values[c] -= origin.offset;
    if (origin.is_decay)
      for (std::int64_t c = 0; c < columns; ++c) {
        check(values[c] < 0, "{}: tensor {} has {}, expected numbers below 0", source(), name, values[c]);
        values[c] = decay_of_gguf(values[c]);
      }
    if (dtype != DType::F32) store(row, dtype, to);
  });
  bytes_read_ += read;
  if (columns == global[rank - 1]) release_mapped({begin, end});
}

std::pair<const std::byte*, std::int64_t> GgufModel::blocks_of(const GgufTensor& tensor, std::int64_t first,
                                                               std::int64_t count) const {
  const std::int64_t elements = core::info(tensor.dtype).block_elements;
  const std::int64_t skipped = first / elements * elements;
  const std::int64_t end = (first + count + elements - 1) / elements * elements;
  return {file_->data(tensor) + core::bytes_of(tensor.dtype, skipped), core::bytes_of(tensor.dtype, end - skipped)};
}

void GgufModel::fill_transposed(const Origin& origin, const Shape& global, core::StateEntry& entry) const {
  const Shape& box = entry.tensor.shape();
  const DType dtype = entry.tensor.dtype();
  const std::int64_t columns = box[1], all_columns = global[1], height = global[0] / origin.transposed_heads;
  std::vector<float> matrix(static_cast<std::size_t>(height * all_columns)), row(static_cast<std::size_t>(columns));
  std::byte* out = entry.tensor.mutable_host_raw();
  std::int64_t head = -1;
  for (std::int64_t i = 0; i < box[0]; ++i, out += core::bytes_of(dtype, columns)) {
    const std::int64_t at = entry.offset[0] + i;
    if (at / height != head) {
      head = at / height;
      file_->read(*origin.tensors.front(), head * std::ssize(matrix), std::ssize(matrix), matrix.data());
      bytes_read_ += blocks_of(*origin.tensors.front(), head * std::ssize(matrix), std::ssize(matrix)).second;
    }
    for (std::int64_t c = 0; c < columns; ++c)
      row[static_cast<std::size_t>(c)] = matrix[static_cast<std::size_t>((entry.offset[1] + c) * height + at % height)];
    if (dtype == DType::F32)
      std::copy(row.begin(), row.end(), reinterpret_cast<float*>(out));
    else
      store(row, dtype, out);
  }
}

std::int64_t GgufModel::columns_of(const Origin& origin, const Shape& box) {
  return box.rank() == 1 && !origin.rows.is_run() ? 1 : box[box.rank() - 1];
}

template <class F>
void GgufModel::for_each_row(const Origin& origin, const Shape& global, const core::StateEntry& entry, F&& f) const {
  const Shape& box = entry.tensor.shape();
  const int rank = global.rank();
  const std::int64_t columns = columns_of(origin, box);
  if (columns < box[rank - 1]) {
    for (std::int64_t i = 0; i < box[0]; ++i) f(i, *origin.tensors.front(), origin.rows.of(entry.offset[0] + i));
    return;
  }
  const std::int64_t rows_a_tensor =
      global.numel() / global[rank - 1] / static_cast<std::int64_t>(origin.tensors.size());
  for (std::int64_t i = 0; i < box.numel() / columns; ++i) {
    std::int64_t file_row = 0;  // the row's index in the stack, from the box's row i, innermost leading dimension first
    std::int64_t stride = 1;
    std::int64_t rest = i;
    for (int d = rank - 2; d >= 0; --d) {
      file_row += (entry.offset[d] + rest % box[d]) * stride;
      rest /= box[d];
      stride *= global[d];
    }
    if (origin.is_permuted) file_row = interleaved_row(file_row, config_.head_width);
    const std::int64_t first =
        rank == 1 ? origin.rows.of(entry.offset[0])
                  : origin.rows.of(file_row % rows_a_tensor) * global[rank - 1] + entry.offset[rank - 1];
    f(i, *origin.tensors[static_cast<std::size_t>(file_row / rows_a_tensor)], first);
  }
}

std::optional<core::Tensor> GgufModel::lend_box(const std::string& name, const core::StateInfo& info,
                                                const core::StateEntry& entry, const core::MemoryPtr& memory) const {
  const Origin& origin = origins_.at(name);
  const Shape& global = info.shape;
  const Shape& box = entry.tensor.shape();
  const int last = global.rank() - 1;
  const DType dtype = origin.tensors.front()->dtype;
  if (origin.offset != 0 || origin.is_decay || origin.transposed_heads > 0) return std::nullopt;
  if (std::ranges::any_of(origin.tensors, [&](const GgufTensor* t) { return t->dtype != dtype; })) return std::nullopt;
  const std::int64_t elements = core::info(dtype).block_elements;
  if (box[last] % elements != 0 || entry.offset[last] % elements != 0 || global[last] % elements != 0)
    return std::nullopt;

  bytes_read_ += core::bytes_of(dtype, box.numel());
  bool lies_there = origin.tensors.size() == 1 && !origin.is_permuted && origin.rows.is_run();
  for (int d = 1; d <= last; ++d) lies_there = lies_there && box[d] == global[d];
  const auto at = [&](const GgufTensor& tensor, std::int64_t first) {
    return file_->data(tensor) + core::bytes_of(dtype, first);
  };
  if (lies_there) {
    const std::byte* first =
        at(*origin.tensors.front(), origin.rows.of(entry.offset[0]) * (global.numel() / global[0]));
    const bool is_aligned = reinterpret_cast<std::uintptr_t>(first) % alignof(float) == 0;
    if (is_aligned || core::block_format(dtype))
      return core::Tensor(std::make_shared<core::Storage>(memory, core::bytes_of(dtype, box.numel()),
                                                          const_cast<std::byte*>(first), file_),
                          0, dtype, box);
  }
  core::Tensor copy = core::Tensor::empty(memory, dtype, box);
  const std::int64_t row_bytes = core::bytes_of(dtype, columns_of(origin, box));
  std::byte* out = copy.mutable_host_raw();
  for_each_row(origin, global, entry, [&](std::int64_t i, const GgufTensor& tensor, std::int64_t first) {
    std::memcpy(out + i * row_bytes, at(tensor, first), static_cast<std::size_t>(row_bytes));
  });
  return copy;
}

}  // namespace limbeck::data
