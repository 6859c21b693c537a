#include "data/models/gguf_model.h"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <set>
#include <vector>

#include "core/error.h"
#include "data/models/gguf_names.h"

namespace limbeck::data {

using core::check;
using core::DType;
using core::Shape;

namespace {

constexpr const char* rope_factors = "rope_freqs.weight";

/// Throws unless the rotary frequencies are as they would be without scaling.
void check_rope_scaling(const GgufFile& file) {
  const std::string& where = file.path();
  const std::string scaling =
      file.has("llama.rope.scaling.type") ? file.text("llama.rope.scaling.type") : std::string("none");
  check(scaling == "none" || scaling == "linear",
        "{}: llama.rope.scaling.type is {}, expected none: RoPE scaling is not supported", where, scaling);
  for (const char* key : {"llama.rope.scaling.factor", "llama.rope.scale_linear"})
    check(!file.has(key) || file.number(key) == 1.0, "{}: {} is {}, expected 1: RoPE scaling is not supported", where,
          key, file.has(key) ? file.number(key) : 1.0);
  const auto factors = file.tensors().find(rope_factors);
  if (factors == file.tensors().end()) return;
  std::vector<float> values(static_cast<std::size_t>(factors->second.shape.numel()));
  file.read(factors->second, 0, factors->second.shape.numel(), values.data());
  const auto other = std::find_if(values.begin(), values.end(), [](float x) { return x != 1.0F; });
  check(other == values.end(), "{}: value {} of {} is {}, expected 1: RoPE scaling is not supported", where,
        other - values.begin(), rope_factors, other == values.end() ? 1.0F : *other);
}

/// The config that the metadata describes. `where` is the file.
nn::ModelConfig read_config(const GgufFile& file) {
  const std::string& where = file.path();
  const std::string& architecture = file.text("general.architecture");
  check(architecture == "llama", "{}: general.architecture is {}, expected llama", where, architecture);
  check_rope_scaling(file);

  nn::ModelConfig config;
  const auto table = file.tensors().find("token_embd.weight");
  check(table != file.tensors().end(), "{}: has no tensor token_embd.weight", where);
  config.vocabulary = table->second.shape[0];
  check(file.integer_or("llama.vocab_size", config.vocabulary) == config.vocabulary,
        "{}: llama.vocab_size is {}, but token_embd.weight is {}", where, file.integer_or("llama.vocab_size", 0),
        table->second.shape);
  config.width = file.integer("llama.embedding_length");
  config.num_layers = file.integer("llama.block_count");
  config.num_heads = file.integer("llama.attention.head_count");
  config.num_kv_heads = file.integer_or("llama.attention.head_count_kv", config.num_heads);
  config.max_positions = file.integer("llama.context_length");
  config.norm_eps = file.number("llama.attention.layer_norm_rms_epsilon");
  config.rope_base = file.has("llama.rope.freq_base") ? file.number("llama.rope.freq_base") : 10000.0;
  config.tied_head = !file.tensors().contains("output.weight");
  check(config.num_heads > 0 && config.width > 0 &&
            (file.has("llama.attention.key_length") || config.width % config.num_heads == 0),
        "{}: llama.embedding_length is {}, expected a multiple of llama.attention.head_count = {} (there is no "
        "llama.attention.key_length)",
        where, config.width, config.num_heads);
  config.head_width = file.integer_or("llama.attention.key_length", config.width / config.num_heads);
  for (const char* key : {"llama.attention.value_length", "llama.rope.dimension_count"})
    check(file.integer_or(key, config.head_width) == config.head_width, "{}: {} is {}, expected the head width {}",
          where, key, file.integer_or(key, 0), config.head_width);

  const std::int64_t feed_forward = file.integer("llama.feed_forward_length");
  config.moe.num_experts = file.integer_or("llama.expert_count", 0);
  if (config.moe.num_experts > 0) {
    config.moe.experts_per_token = file.integer("llama.expert_used_count");
    config.moe.expert_width = file.integer_or("llama.expert_feed_forward_length", feed_forward);
  } else {
    config.mlp_width = feed_forward;
  }
  nn::validate(config, where);
  return config;
}

void store(const std::vector<float>& row, DType dtype, std::byte* at) {
  if (dtype == DType::F64)
    std::copy(row.begin(), row.end(), reinterpret_cast<double*>(at));
  else
    std::transform(row.begin(), row.end(), reinterpret_cast<core::bf16*>(at), [](float x) { return core::bf16(x); });
}

}  // namespace

GgufModel::GgufModel(std::shared_ptr<const GgufFile> file) : file_(std::move(file)), config_(read_config(*file_)) {
  std::set<const GgufTensor*> used;
  for (const GgufName& name : gguf_names(config_)) {
    Origin origin = find(name);
    used.insert(origin.tensors.begin(), origin.tensors.end());
    tensors_[name.name] = {name.shape, origin.tensors.front()->dtype};
    origins_[name.name] = std::move(origin);
  }
  for (const auto& [name, tensor] : file_->tensors())
    check(name == rope_factors || used.contains(&tensor), "{}: tensor {} {} has no place in a llama model of {} layers",
          source(), name, tensor.shape, config_.num_layers);
}

GgufModel::Origin GgufModel::find(const GgufName& name) const {
  const auto tensor = [&](const std::string& stored, const Shape& shape) {
    const auto found = file_->tensors().find(stored);
    check(found != file_->tensors().end(), "{}: has no tensor {}, expected one of shape {}", source(), stored, shape);
    check(found->second.shape == shape, "{}: tensor {} has shape {}, expected {}", source(), stored,
          found->second.shape, shape);
    return &found->second;
  };
  Origin origin{.tensors = {}, .is_permuted = name.is_permuted};
  if (name.shape.rank() == 3 && file_->tensors().contains(gguf_expert_name(name.stored, 0)))
    for (std::int64_t e = 0; e < name.shape[0]; ++e)
      origin.tensors.push_back(tensor(gguf_expert_name(name.stored, e), Shape(name.shape.extents().subspan(1))));
  else
    origin.tensors.push_back(tensor(name.stored, name.shape));
  return origin;
}

void GgufModel::fill(const std::string& name, const core::StateInfo& info, core::StateEntry& entry) const {
  const Shape& global = info.shape;
  const Shape& box = entry.tensor.shape();
  const int rank = global.rank();
  const DType dtype = entry.tensor.dtype();
  check(dtype == DType::F32 || dtype == DType::F64 || dtype == DType::BF16,
        "{}: {}: cannot be read as {}, expected float32, float64 or bfloat16", source(), name, dtype);

  const std::int64_t columns = box[rank - 1], row_bytes = core::bytes_of(dtype, columns);
  std::vector<float> row(dtype == DType::F32 ? 0 : static_cast<std::size_t>(columns));
  std::byte* out = entry.tensor.mutable_host_raw();
  for_each_row(origins_.at(name), global, entry, [&](std::int64_t i, const GgufTensor& tensor, std::int64_t first) {
    std::byte* to = out + i * row_bytes;
    file_->read(tensor, first, columns, dtype == DType::F32 ? reinterpret_cast<float*>(to) : row.data());
    if (dtype != DType::F32) store(row, dtype, to);
  });
}

template <class F>
void GgufModel::for_each_row(const Origin& origin, const Shape& global, const core::StateEntry& entry, F&& f) const {
  const Shape& box = entry.tensor.shape();
  const int rank = global.rank();
  const std::int64_t columns = box[rank - 1];
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
    f(i, *origin.tensors[static_cast<std::size_t>(file_row / rows_a_tensor)],
      file_row % rows_a_tensor * global[rank - 1] + entry.offset[rank - 1]);
  }
}

std::optional<core::Tensor> GgufModel::lend_box(const std::string& name, const core::StateInfo& info,
                                                const core::StateEntry& entry, const core::MemoryPtr& memory) const {
  const Origin& origin = origins_.at(name);
  const Shape& global = info.shape;
  const Shape& box = entry.tensor.shape();
  const int last = global.rank() - 1;
  const DType dtype = origin.tensors.front()->dtype;
  if (std::ranges::any_of(origin.tensors, [&](const GgufTensor* t) { return t->dtype != dtype; })) return std::nullopt;
  const std::int64_t elements = core::info(dtype).block_elements;
  if (box[last] % elements != 0 || entry.offset[last] % elements != 0 || global[last] % elements != 0)
    return std::nullopt;

  bool lies_there = origin.tensors.size() == 1 && !origin.is_permuted;
  for (int d = 1; d <= last; ++d) lies_there = lies_there && box[d] == global[d];
  const auto at = [&](const GgufTensor& tensor, std::int64_t first) {
    return file_->data(tensor) + core::bytes_of(dtype, first);
  };
  if (lies_there) {
    const std::byte* first = at(*origin.tensors.front(), entry.offset[0] * (global.numel() / global[0]));
    const bool is_aligned = reinterpret_cast<std::uintptr_t>(first) % alignof(float) == 0;
    if (is_aligned || core::block_format(dtype))
      return core::Tensor(std::make_shared<core::Storage>(memory, core::bytes_of(dtype, box.numel()),
                                                          const_cast<std::byte*>(first), file_),
                          0, dtype, box);
  }
  core::Tensor copy = core::Tensor::empty(memory, dtype, box);
  const std::int64_t row_bytes = core::bytes_of(dtype, box[last]);
  std::byte* out = copy.mutable_host_raw();
  for_each_row(origin, global, entry, [&](std::int64_t i, const GgufTensor& tensor, std::int64_t first) {
    std::memcpy(out + i * row_bytes, at(tensor, first), static_cast<std::size_t>(row_bytes));
  });
  return copy;
}

}  // namespace limbeck::data
