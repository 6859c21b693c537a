#include "data/gguf_model.h"

#include <algorithm>
#include <vector>

#include "core/error.h"

namespace limbeck::data {

using core::check;
using core::DType;
using core::Shape;

namespace {

/// The config that the metadata describes. `where` is the file.
nn::ModelConfig read_config(const GgufFile& file) {
  const std::string& where = file.path();
  const std::string& architecture = file.text("general.architecture");
  check(architecture == "llama", "{}: general.architecture is {}, expected llama", where, architecture);
  const std::string scaling =
      file.has("llama.rope.scaling.type") ? file.text("llama.rope.scaling.type") : std::string("none");
  check(scaling == "none", "{}: llama.rope.scaling.type is {}, expected none: RoPE scaling is not supported", where,
        scaling);
  for (const char* key : {"llama.rope.scaling.factor", "llama.rope.scale_linear"})
    check(!file.has(key) || file.number(key) == 1.0, "{}: {} is {}, expected 1: RoPE scaling is not supported", where,
          key, file.has(key) ? file.number(key) : 1.0);
  check(!file.tensors().contains("rope_freqs.weight"),
        "{}: has the tensor rope_freqs.weight: RoPE scaling by factors is not supported", where);

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
  check(config.num_heads > 0 && config.width > 0 && config.width % config.num_heads == 0,
        "{}: llama.embedding_length is {}, expected a multiple of llama.attention.head_count = {}", where, config.width,
        config.num_heads);
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

/// Row r of a head in half-split order lies in the file, whose order is interleaved, at this row (D: head width).
std::int64_t interleaved_row(std::int64_t row, std::int64_t head_width) {
  const std::int64_t within = row % head_width;
  const std::int64_t half = head_width / 2;
  return row - within + 2 * (within % half) + within / half;
}

void store(const std::vector<float>& row, DType dtype, std::byte* at) {
  if (dtype == DType::F32)
    std::copy(row.begin(), row.end(), reinterpret_cast<float*>(at));
  else if (dtype == DType::F64)
    std::copy(row.begin(), row.end(), reinterpret_cast<double*>(at));
  else
    std::transform(row.begin(), row.end(), reinterpret_cast<core::bf16*>(at), [](float x) { return core::bf16(x); });
}

}  // namespace

GgufModel::GgufModel(std::shared_ptr<const GgufFile> file) : file_(std::move(file)), config_(read_config(*file_)) {
  const auto& c = config_;
  const std::int64_t q_rows = c.num_heads * c.head_width;
  const std::int64_t kv_rows = c.num_kv_heads * c.head_width;
  map_tensor("token_embd", "embed.weight", {c.vocabulary, c.width});
  map_tensor("output_norm", "norm.weight", {c.width});
  if (!c.tied_head) map_tensor("output", "head.weight", {c.vocabulary, c.width});
  for (std::int64_t layer = 0; layer < c.num_layers; ++layer) {
    const std::string from = fmt::format("blk.{}.", layer);
    const std::string to = fmt::format("layers.{}.", layer);
    map_tensor(from + "attn_norm", to + "attention_norm.weight", {c.width});
    map_tensor(from + "attn_q", to + "attention.q.weight", {q_rows, c.width}, true);
    map_tensor(from + "attn_k", to + "attention.k.weight", {kv_rows, c.width}, true);
    map_tensor(from + "attn_v", to + "attention.v.weight", {kv_rows, c.width});
    map_tensor(from + "attn_output", to + "attention.o.weight", {c.width, q_rows});
    map_tensor(from + "ffn_norm", to + "mlp_norm.weight", {c.width});
    if (c.is_moe_layer(layer)) {
      const auto& moe = c.moe;
      map_tensor(from + "ffn_gate_inp", to + "moe.router.weight", {moe.num_experts, c.width});
      map_tensor(from + "ffn_gate_exps", to + "moe.experts.gate", {moe.num_experts, moe.expert_width, c.width});
      map_tensor(from + "ffn_up_exps", to + "moe.experts.up", {moe.num_experts, moe.expert_width, c.width});
      map_tensor(from + "ffn_down_exps", to + "moe.experts.down", {moe.num_experts, c.width, moe.expert_width});
    } else {
      map_tensor(from + "ffn_gate", to + "mlp.gate.weight", {c.mlp_width, c.width});
      map_tensor(from + "ffn_up", to + "mlp.up.weight", {c.mlp_width, c.width});
      map_tensor(from + "ffn_down", to + "mlp.down.weight", {c.width, c.mlp_width});
    }
  }
  if (origins_.size() == file_->tensors().size()) return;
  for (const auto& [name, tensor] : file_->tensors())
    check(std::any_of(origins_.begin(), origins_.end(),
                      [&, of = &tensor](const auto& o) { return o.second.tensor == of; }),
          "{}: tensor {} {} has no place in a llama model of {} layers", source(), name, tensor.shape, c.num_layers);
}

void GgufModel::map_tensor(const std::string& from, const std::string& to, const Shape& shape, bool is_permuted) {
  const auto found = file_->tensors().find(from + ".weight");
  check(found != file_->tensors().end(), "{}: has no tensor {}.weight, expected one of shape {}", source(), from,
        shape);
  check(found->second.shape == shape, "{}: tensor {}.weight has shape {}, expected {}", source(), from,
        found->second.shape, shape);
  tensors_[to] = {shape, found->second.dtype};
  origins_[to] = {&found->second, is_permuted};
}

void GgufModel::read(const std::string& name, core::StateEntry& entry) const {
  const Shape& global = core::check_entry(*this, name, entry).shape;
  const auto& [tensor, is_permuted] = origins_.at(name);
  const Shape& box = entry.tensor.shape();
  const int rank = global.rank();
  const DType dtype = entry.tensor.dtype();
  check(dtype == DType::F32 || dtype == DType::F64 || dtype == DType::BF16,
        "{}: {}: cannot be read as {}, expected float32, float64 or bfloat16", source(), name, dtype);
  if (box.numel() == 0) return;

  const std::int64_t columns = box[rank - 1];
  const std::int64_t row_bytes = core::bytes_of(dtype, columns);
  std::vector<float> row(static_cast<std::size_t>(columns));
  std::byte* out = entry.tensor.mutable_raw();
  for (std::int64_t i = 0; i < box.numel() / columns; ++i, out += row_bytes) {
    std::int64_t file_row = 0;  // the row's index in the file, from the box's row i, innermost leading dimension first
    std::int64_t stride = 1;
    std::int64_t rest = i;
    for (int d = rank - 2; d >= 0; --d) {
      file_row += (entry.offset[d] + rest % box[d]) * stride;
      rest /= box[d];
      stride *= global[d];
    }
    if (is_permuted) file_row = interleaved_row(file_row, config_.head_width);
    file_->read(*tensor, file_row * global[rank - 1] + entry.offset[rank - 1], columns, row.data());
    store(row, dtype, out);
  }
}

}  // namespace limbeck::data
