#include "data/models/gguf_export.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "core/error.h"
#include "core/nn/rope_scaling.h"
#include "core/ops/rope.h"
#include "data/files/atomic_file.h"
#include "data/models/families/family.h"
#include "data/models/gguf_choice.h"
#include "data/models/gguf_names.h"
#include "data/models/gguf_write.h"

namespace limbeck::data {

using core::check;
using core::DType;
using core::Shape;
namespace fs = std::filesystem;

namespace {

/// None where a layer is Mamba-2's.
std::vector<std::int32_t> kv_heads_by_layer(const nn::ModelConfig& config) {
  std::vector<std::int32_t> heads;
  for (std::int64_t layer = 0; layer < config.num_layers; ++layer)
    heads.push_back(config.is_mamba_layer(layer) ? 0 : static_cast<std::int32_t>(config.num_kv_heads));
  return heads;
}

GgufKeys keys_of(const nn::ModelConfig& config, const Family& family, const fs::path& path, const GgufExport& options) {
  const bool has_experts = config.moe.num_experts > 0;
  const std::string prefix = std::string(family.gguf) + ".";
  GgufKeys keys = {{"general.architecture", std::string(family.gguf)},
                   {"general.name", path.stem().string()},
                   {"general.file_type", gguf_file_type(options.dtype)},
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
  integer("block_count", config.num_layers + config.num_predict_layers);
  if (config.num_predict_layers > 0) integer("nextn_predict_layers", config.num_predict_layers);
  const bool leads = family.traits.leads_with_dense;
  const std::int64_t dense = config.feed_forward ? config.mlp_width : 0;
  integer("feed_forward_length", has_experts && !leads ? config.moe.expert_width : dense);
  if (const nn::MambaConfig& mamba = config.mamba; config.num_mamba_layers() > 0) {
    integer("ssm.conv_kernel", mamba.conv_width);
    integer("ssm.inner_size", mamba.inner_width());
    integer("ssm.state_size", mamba.state_width);
    integer("ssm.time_step_rank", mamba.num_heads);
    integer("ssm.group_count", mamba.num_groups);
  }
  integer("attention.head_count", config.has_attention() ? config.num_heads : 0);
  const nn::LatentConfig& latent = config.latent;
  if (config.is_latent()) {  // of the latents, which are one head for all queries
    integer("attention.head_count_kv", 1);
    integer("attention.q_lora_rank", latent.query_rank);
    integer("attention.kv_lora_rank", latent.rank);
    integer("attention.key_length", latent.rank + latent.rope_width);
    integer("attention.value_length", latent.rank);
    integer("attention.key_length_mla", config.head_width);
    integer("attention.value_length_mla", latent.value_width);
  } else if (config.has_attention()) {
    if (config.num_mamba_layers() > 0)
      keys.emplace_back(prefix + "attention.head_count_kv", kv_heads_by_layer(config));
    else
      integer("attention.head_count_kv", config.num_kv_heads);
    integer("attention.key_length", config.head_width);
    integer("attention.value_length", config.head_width);
  }
  if (config.has_attention() && config.positions == nn::Positions::Rotary) {
    integer("rope.dimension_count", config.turning_width());
    number("rope.freq_base", config.rope_base);
  }
  if (family.traits.has_scales) {
    const double usual = 1 / std::sqrt(static_cast<double>(config.head_width));
    number("attention.scale", config.attention_scale > 0 ? config.attention_scale : usual);
    number("embedding_scale", config.embedding_scale);
    number("residual_scale", config.residual_scale);
    number("logit_scale", 1 / config.logits_scale);
  }
  if (family.traits.mamba == FamilyTraits::Mamba::Some)
    keys.emplace_back(prefix + "rope.scaling.finetuned", config.positions == nn::Positions::Rotary);
  number(config.norm_kind == nn::NormKind::Rms ? "attention.layer_norm_rms_epsilon" : "attention.layer_norm_epsilon",
         config.norm_eps);
  if (has_experts) {
    integer("expert_count", config.moe.num_experts);
    integer("expert_used_count", config.moe.experts_per_token);
    if (family.gguf != std::string("llama")) integer("expert_feed_forward_length", config.moe.expert_width);
    if (leads) {
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

/// Of a tensor of the file that is made of rows of several of ours, in any order, or of heads that are transposed
/// there.
core::Tensor joined(const core::StateReader& model, const std::vector<const GgufName*>& parts, std::int64_t matrix) {
  const auto memory = core::Memory::cpu(1);
  const auto read = [&](const GgufName& name, const Shape& box, std::int64_t first) {
    std::vector<std::int64_t> offset(box.extents().size(), 0);
    offset[0] = first;
    core::StateEntry entry{name.shape, offset, core::Tensor::empty(memory, DType::F32, box), true};
    model.read(name.name, entry);
    return entry.tensor;
  };
  const GgufName& name = *parts.front();
  if (name.is_transposed) {
    const std::int64_t m = name.shape[1], n = name.shape[0] / name.num_heads;
    const core::Tensor head = read(name, {n, m}, matrix * n);
    core::Tensor turned = core::Tensor::empty(memory, DType::F32, {m, n});
    for (std::int64_t i = 0; i < n; ++i)
      for (std::int64_t j = 0; j < m; ++j) turned.mutable_host<float>()[j * n + i] = head.host<float>()[i * m + j];
    return turned;
  }
  core::Tensor all = core::Tensor::empty(memory, DType::F32, name.stored_shape());
  for (const GgufName* part : parts) {
    const core::Tensor values = read(*part, part->shape, 0);
    for (std::int64_t row = 0; row < part->shape[0]; ++row)
      all.rows(part->rows.of(row), 1).copy_from(values.rows(row, 1));
  }
  return all;
}

/// What heads decay by, as the file has it.
core::Tensor decays_of(const core::StateReader& model, const GgufName& name) {
  core::StateEntry entry = core::StateEntry::whole(core::Tensor::empty(core::Memory::cpu(1), DType::F32, name.shape));
  model.read(name.name, entry);
  auto* values = entry.tensor.mutable_host<float>();
  std::transform(values, values + entry.tensor.numel(), values, gguf_decay);
  return entry.tensor;
}

}  // namespace

std::int64_t export_gguf(const core::StateReader& model, const nn::ModelConfig& whole, const fs::path& path,
                         const GgufExport& options) {
  const std::string where = path.string();
  if (const auto beyond_all = beyond_all_families(whole, beyond_gguf))
    core::fail("GGUF export: {}: {}", *beyond_all,
               beyond_all_families(whole) ? "no format of others holds this model, but a Limbeck checkpoint"
                                          : "a Hugging Face directory holds this model");
  const Family& family = family_for(whole, "GGUF export", beyond_gguf);
  nn::ModelConfig config = whole;
  if (!family.gguf_predicts) config.num_predict_layers = 0;
  if (config.num_predict_layers < whole.num_predict_layers && options.work.notice)
    options.work.notice(
        fmt::format("{}: layers that predict further tokens ({}) are left out: they are not written as GGUF of {}",
                    where, whole.num_predict_layers, family.name));
  check(options.dtype != DType::MXFP4 || config.moe.num_experts > 0,
        "GGUF export: dtype is {}, which is of experts, and there are none", options.dtype);
  const GgufKeys keys = keys_of(config, family, path, options);
  std::vector<GgufPlan> plan;
  std::vector<ExportTensor> tensors;
  std::int64_t num_otherwise = 0;
  const std::vector<GgufName> names = gguf_names(config, family);
  std::map<std::string, std::vector<const GgufName*>> parts;  // of those that are not one of ours as it is
  for (const GgufName& name : names)
    if (name.is_transposed || !name.rows.is_all()) parts[name.stored].push_back(&name);
  for (const GgufName& name : names) {
    const auto found = parts.find(name.stored);
    if (found != parts.end() && found->second.front() != &name) continue;
    const GgufChoice chosen = gguf_choice(name, config, family, options.dtype);
    plan.push_back({name.stored, chosen.dtype, name.stored_shape()});
    num_otherwise += chosen.is_otherwise ? 1 : 0;
    if (name.is_decay)
      tensors.push_back(
          {.stored = name.stored,
           .shape = name.shape,
           .dtype = chosen.dtype,
           .make = [own = &name](const core::StateReader& of, std::int64_t) { return decays_of(of, *own); }});
    else if (found != parts.end())
      tensors.push_back({.stored = name.stored,
                         .shape = name.stored_shape(),
                         .dtype = chosen.dtype,
                         .make = [all = &found->second](const core::StateReader& of, std::int64_t matrix) {
                           return joined(of, *all, matrix);
                         }});
    else
      tensors.push_back({.stored = name.stored,
                         .name = name.name,
                         .shape = name.shape,
                         .dtype = chosen.dtype,
                         .head_width = name.is_permuted ? config.head_width : 0,
                         .offset = name.offset});
  }
  for (const auto& [name, values] : rope_factors(config)) {
    plan.push_back({name, DType::F32, {std::ssize(values)}});
    tensors.push_back({.stored = name, .shape = plan.back().shape, .values = values});
  }
  check(!fs::is_directory(path), "{}: is a folder, expected a file to write", where);
  TensorFiles::File file{where + ".tmp", gguf_head(keys, plan, where), {}};
  for (const ExportTensor& tensor : tensors) file.tensors.push_back({tensor.bytes(), gguf_padding(tensor.bytes())});
  TensorFiles files({file}, where + ".journal", options.work.identity, options.work.notice);
  try {
    export_tensors(model, tensors, files, options.work, options.values_at_once, where);
    files.close();
    if (options.work.verify) options.work.verify(file.path);
    TemporaryFile(path).keep();
  } catch (const core::Error&) {
    files.discard();
    throw;
  }
  files.forget();
  return num_otherwise;
}

}  // namespace limbeck::data
