#include "data/models/gguf_export.h"

#include <algorithm>
#include <iterator>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "core/error.h"
#include "core/nn/rope_scaling.h"
#include "core/ops/rope.h"
#include "data/models/families/family.h"
#include "data/models/gguf_names.h"
#include "data/models/gguf_write.h"

namespace limbeck::data {

using core::check;
using core::DType;
using core::Shape;
namespace fs = std::filesystem;

namespace {

/// general.file_type: llama_ftype of llama.h.
std::uint32_t file_type(DType dtype) {
  switch (dtype) {
    case DType::F32:
      return 0;
    case DType::F16:
      return 1;
    case DType::Q8_0:
      return 7;
    case DType::BF16:
      return 32;
    default:
      core::fail("GGUF export: dtype is {}, expected float32, float16, bfloat16 or Q8_0", dtype);
  }
}

GgufKeys keys_of(const nn::ModelConfig& config, const Family& family, const fs::path& path, const GgufExport& options) {
  const bool has_experts = config.moe.num_experts > 0;
  const std::string prefix = std::string(family.gguf) + ".";
  GgufKeys keys = {{"general.architecture", std::string(family.gguf)},
                   {"general.name", path.stem().string()},
                   {"general.file_type", file_type(options.dtype)},
                   {"general.quantization_version", 2U}};
  const auto integer = [&](const char* name, std::int64_t value) {
    keys.emplace_back(prefix + name, static_cast<std::uint32_t>(value));  // validate() bounds them
  };
  const auto number = [&](const char* name, double value) {
    keys.emplace_back(prefix + name, static_cast<float>(value));
  };
  integer("vocab_size", config.vocabulary);
  integer("context_length", config.max_positions);
  integer("embedding_length", config.width);
  integer("block_count", config.num_layers);
  const bool leads = family.traits.leads_with_dense;
  integer("feed_forward_length", has_experts && !leads ? config.moe.expert_width : config.mlp_width);
  integer("attention.head_count", config.num_heads);
  const nn::LatentConfig& latent = config.latent;
  if (config.is_latent()) {  // of the latents, which are one head for all queries
    integer("attention.head_count_kv", 1);
    integer("attention.q_lora_rank", latent.query_rank);
    integer("attention.kv_lora_rank", latent.rank);
    integer("attention.key_length", latent.rank + latent.rope_width);
    integer("attention.value_length", latent.rank);
    integer("attention.key_length_mla", config.head_width);
    integer("attention.value_length_mla", latent.value_width);
  } else {
    integer("attention.head_count_kv", config.num_kv_heads);
    integer("attention.key_length", config.head_width);
    integer("attention.value_length", config.head_width);
  }
  if (config.positions == nn::Positions::Rotary) {
    integer("rope.dimension_count", config.turning_width());
    number("rope.freq_base", config.rope_base);
  }
  number(config.norm_kind == nn::NormKind::Rms ? "attention.layer_norm_rms_epsilon" : "attention.layer_norm_epsilon",
         config.norm_eps);
  if (has_experts) {
    integer("expert_count", config.moe.num_experts);
    integer("expert_used_count", config.moe.experts_per_token);
    if (family.gguf != std::string("llama")) integer("expert_feed_forward_length", config.moe.expert_width);
    if (config.is_latent()) {
      const nn::MoeConfig& moe = config.moe;
      integer("leading_dense_block_count", std::ssize(moe.dense_layers));
      integer("expert_shared_count", moe.shared_width / moe.expert_width);
      number("expert_weights_scale", moe.weight_scale);
      keys.emplace_back(prefix + "expert_weights_norm", moe.renormalise);
      integer("expert_gating_func", moe.scores == nn::RouterScores::Sigmoid ? 2 : 1);
      if (moe.groups_per_token < moe.num_groups) {
        integer("expert_group_count", moe.num_groups);
        integer("expert_group_used_count", moe.groups_per_token);
      }
    } else if (config.moe.shared_width > 0) {
      integer("expert_shared_feed_forward_length", config.moe.shared_width);
    }
  }
  if (config.window > 0) integer("attention.sliding_window", config.window);
  if (config.rope_scaling.kind == nn::RopeScaling::Kind::LongRope) {
    integer("rope.scaling.original_context_length", config.rope_scaling.original_positions);
    number("rope.scaling.attn_factor",
           nn::rope_angles(config.turning_width(), config.rope_base, config.rope_scaling).factor);
  }
  const nn::RopeScaling& scaling = config.rope_scaling;
  if (scaling.kind == nn::RopeScaling::Kind::Linear || scaling.kind == nn::RopeScaling::Kind::Yarn) {
    const bool is_yarn = scaling.kind == nn::RopeScaling::Kind::Yarn;
    keys.emplace_back(prefix + "rope.scaling.type", std::string(is_yarn ? "yarn" : "linear"));
    number("rope.scaling.factor", scaling.factor);
    if (is_yarn) {
      integer("rope.scaling.original_context_length", scaling.original_positions);
      number("rope.scaling.yarn_beta_fast", scaling.beta_fast);
      number("rope.scaling.yarn_beta_slow", scaling.beta_slow);
      if (config.is_latent()) number("rope.scaling.yarn_log_multiplier", 0.1 * scaling.mscale_all);
    }
  }
  GgufKeys tokenizer = {{"tokenizer.ggml.model", std::string("none")}};
  if (options.tokenizer != nullptr) tokenizer = options.tokenizer->to_gguf(config.vocabulary);
  keys.insert(keys.end(), tokenizer.begin(), tokenizer.end());
  return keys;
}

/// Tensors of what frequencies are divided by, of Llama 3's scaling and LongRoPE.
std::vector<std::pair<std::string, std::vector<float>>> rope_factors(const nn::ModelConfig& config) {
  const nn::RopeScaling& scaling = config.rope_scaling;
  if (scaling.kind == nn::RopeScaling::Kind::LongRope)
    return {{gguf_long_factors, {scaling.long_factors.begin(), scaling.long_factors.end()}},
            {gguf_short_factors, {scaling.short_factors.begin(), scaling.short_factors.end()}}};
  if (scaling.kind != nn::RopeScaling::Kind::Llama3) return {};
  std::vector<float> factors;
  const std::vector<double> plain = core::rope_frequencies(config.turning_width(), config.rope_base);
  const nn::RopeAngles scaled = nn::rope_angles(config.turning_width(), config.rope_base, scaling);
  for (std::size_t i = 0; i < plain.size(); ++i)
    factors.push_back(static_cast<float>(plain[i] / scaled.frequencies[i]));
  return {{"rope_freqs.weight", factors}};
}

DType stored_dtype(const GgufName& name, DType wanted) {
  const Shape shape = name.stored_shape();
  if (shape.rank() == 1 || name.stored.ends_with(".bias") || name.stored.ends_with(".ffn_gate_inp.weight") ||
      name.stored == "position_embd.weight")
    return DType::F32;
  const bool fills_blocks = shape[shape.rank() - 1] % core::info(wanted).block_elements == 0;
  return fills_blocks ? wanted : DType::F16;
}

/// The whole of a tensor of ours, as float32.
std::vector<float> values_of(const core::StateReader& model, const GgufName& name) {
  core::StateEntry entry = core::StateEntry::whole(core::Tensor::empty(core::Memory::cpu(1), DType::F32, name.shape));
  model.read(name.name, entry);
  const auto* values = entry.tensor.host<float>();
  return {values, values + name.shape.numel()};
}

/// A tensor of the file that is made of rows of several of ours, in any order.
void write_joined(const core::StateReader& model, const std::vector<const GgufName*>& parts, GgufWriter& writer) {
  const Shape shape = parts.front()->stored_shape();
  std::vector<float> all(static_cast<std::size_t>(shape.numel()));
  for (const GgufName* part : parts) {
    const std::vector<float> values = values_of(model, *part);
    for (std::int64_t row = 0; row < part->shape[0]; ++row)
      std::copy_n(values.begin() + row * shape[1], shape[1], all.begin() + part->rows.of(row) * shape[1]);
  }
  writer.write(all);
}

/// Heads [N,M] as [M,N].
void write_transposed(const core::StateReader& model, const GgufName& name, GgufWriter& writer) {
  const std::vector<float> values = values_of(model, name);
  std::vector<float> turned(values.size());
  const std::int64_t m = name.shape[1], n = name.shape[0] / name.num_heads;
  for (std::int64_t h = 0; h < name.num_heads; ++h)
    for (std::int64_t i = 0; i < n; ++i)
      for (std::int64_t j = 0; j < m; ++j)
        turned[static_cast<std::size_t>((h * m + j) * n + i)] = values[static_cast<std::size_t>((h * n + i) * m + j)];
  writer.write(turned);
}

/// Hands the tensor's values over in the file's order, a box at a time.
void write_tensor(const core::StateReader& model, const GgufName& name, std::int64_t head_width,
                  std::int64_t values_at_once, GgufWriter& writer) {
  const auto memory = core::Memory::cpu(1);
  const Shape& shape = name.shape;
  const int rank = shape.rank();
  const std::int64_t columns = shape[rank - 1];
  const std::int64_t rows = rank == 1 ? 1 : shape[rank - 2];
  std::int64_t rows_at_once = std::max<std::int64_t>(1, values_at_once / columns);
  if (name.is_permuted)
    rows_at_once = std::max<std::int64_t>(1, rows_at_once / head_width) * head_width;  // whole heads
  std::vector<float> permuted;
  for (std::int64_t matrix = 0; matrix < (rank == 3 ? shape[0] : 1); ++matrix)
    for (std::int64_t first = 0; first < rows; first += rows_at_once) {
      const std::int64_t count = std::min(rows_at_once, rows - first);
      Shape box = shape;
      std::vector<std::int64_t> offset(static_cast<std::size_t>(rank), 0);
      if (rank > 1) {
        box[rank - 2] = count;
        offset[rank - 2] = first;
      }
      if (rank == 3) {
        box[0] = 1;
        offset[0] = matrix;
      }
      core::StateEntry entry{shape, offset, core::Tensor::empty(memory, DType::F32, box), true};
      model.read(name.name, entry);
      if (name.offset != 0)
        for (std::int64_t i = 0; i < box.numel(); ++i)
          entry.tensor.mutable_host<float>()[i] += static_cast<float>(name.offset);
      const auto* values = entry.tensor.host<float>();
      if (name.is_permuted) {
        permuted.resize(static_cast<std::size_t>(box.numel()));
        for (std::int64_t row = 0; row < count; ++row)
          std::copy_n(values + row * columns, columns, permuted.data() + interleaved_row(row, head_width) * columns);
        values = permuted.data();
      }
      writer.write({values, static_cast<std::size_t>(box.numel())});
    }
}

}  // namespace

std::int64_t export_gguf(const core::StateReader& model, const nn::ModelConfig& config, const fs::path& path,
                         const GgufExport& options) {
  const Family& family = family_for(config, "GGUF export", beyond_gguf);
  const GgufKeys keys = keys_of(config, family, path, options);
  const auto names = gguf_names(config, family);
  std::vector<GgufPlan> plan;
  std::int64_t num_otherwise = 0;
  std::map<std::string, std::vector<const GgufName*>> parts;  // by the file's name
  for (const auto& name : names) {
    parts[name.stored].push_back(&name);
    if (parts.at(name.stored).size() > 1) continue;
    plan.push_back({name.stored, stored_dtype(name, options.dtype), name.stored_shape()});
    if (plan.back().dtype == DType::F16 && options.dtype == DType::Q8_0) ++num_otherwise;
  }
  const auto factors = rope_factors(config);
  for (const auto& [name, values] : factors) plan.push_back({name, DType::F32, {std::ssize(values)}});
  GgufWriter writer(path, keys, std::move(plan));
  for (const auto& name : names) {
    const std::vector<const GgufName*>& all = parts.at(name.stored);
    if (all.front() != &name) continue;
    if (name.is_transposed)
      write_transposed(model, name, writer);
    else if (std::ranges::all_of(all, [](const GgufName* part) { return part->rows.is_run(); }))
      for (const GgufName* part : all) write_tensor(model, *part, config.head_width, options.values_at_once, writer);
    else
      write_joined(model, all, writer);
  }
  for (const auto& [_, values] : factors) writer.write(values);
  writer.finish();
  return num_otherwise;
}

}  // namespace limbeck::data
