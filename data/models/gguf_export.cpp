#include "data/models/gguf_export.h"

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
  integer("block_count", config.num_layers);
  integer("feed_forward_length", has_experts ? config.moe.expert_width : config.mlp_width);
  integer("attention.head_count", config.num_heads);
  integer("attention.head_count_kv", config.num_kv_heads);
  integer("attention.key_length", config.head_width);
  integer("attention.value_length", config.head_width);
  integer("rope.dimension_count", config.head_width);
  number("rope.freq_base", config.rope_base);
  number("attention.layer_norm_rms_epsilon", config.norm_eps);
  if (has_experts) {
    integer("expert_count", config.moe.num_experts);
    integer("expert_used_count", config.moe.experts_per_token);
    if (family.gguf != std::string("llama")) integer("expert_feed_forward_length", config.moe.expert_width);
    if (config.moe.shared_width > 0) integer("expert_shared_feed_forward_length", config.moe.shared_width);
  }
  if (config.window > 0) integer("attention.sliding_window", config.window);
  const nn::RopeScaling& scaling = config.rope_scaling;
  if (scaling.kind == nn::RopeScaling::Kind::Linear || scaling.kind == nn::RopeScaling::Kind::Yarn) {
    const bool is_yarn = scaling.kind == nn::RopeScaling::Kind::Yarn;
    keys.emplace_back(prefix + "rope.scaling.type", std::string(is_yarn ? "yarn" : "linear"));
    number("rope.scaling.factor", scaling.factor);
    if (is_yarn) {
      integer("rope.scaling.original_context_length", scaling.original_positions);
      number("rope.scaling.yarn_beta_fast", scaling.beta_fast);
      number("rope.scaling.yarn_beta_slow", scaling.beta_slow);
    }
  }
  GgufKeys tokenizer = {{"tokenizer.ggml.model", std::string("none")}};
  if (options.tokenizer != nullptr) tokenizer = options.tokenizer->to_gguf(config.vocabulary);
  keys.insert(keys.end(), tokenizer.begin(), tokenizer.end());
  return keys;
}

/// What frequencies are divided by where they are scaled as in Llama 3; else nothing.
std::vector<float> rope_factors(const nn::ModelConfig& config) {
  std::vector<float> factors;
  if (config.rope_scaling.kind != nn::RopeScaling::Kind::Llama3) return factors;
  const std::vector<double> plain = core::rope_frequencies(config.head_width, config.rope_base);
  const nn::RopeAngles scaled = nn::rope_angles(config.head_width, config.rope_base, config.rope_scaling);
  for (std::size_t i = 0; i < plain.size(); ++i)
    factors.push_back(static_cast<float>(plain[i] / scaled.frequencies[i]));
  return factors;
}

}  // namespace

std::int64_t export_gguf(const core::StateReader& model, const nn::ModelConfig& config, const fs::path& path,
                         const GgufExport& options) {
  const std::string where = path.string();
  if (const auto beyond_all = beyond_all_families(config, beyond_gguf))
    core::fail("GGUF export: {}: {}", *beyond_all,
               beyond_all_families(config) ? "no format of others holds this model, but a Limbeck checkpoint"
                                           : "a Hugging Face directory holds this model");
  const Family& family = family_for(config, "GGUF export", beyond_gguf);
  const GgufKeys keys = keys_of(config, family, path, options);
  std::vector<GgufPlan> plan;
  std::vector<ExportTensor> tensors;
  std::int64_t num_otherwise = 0;
  for (const auto& name : gguf_names(config, family.gguf_interleaves)) {
    const GgufChoice chosen = gguf_choice(name, config, family, options.dtype);
    plan.push_back({name.stored, chosen.dtype, name.stored_shape()});
    num_otherwise += chosen.is_otherwise ? 1 : 0;
    tensors.push_back({.stored = name.stored,
                       .name = name.name,
                       .shape = name.shape,
                       .dtype = plan.back().dtype,
                       .head_width = name.is_permuted ? config.head_width : 0,
                       .offset = name.offset});
  }
  if (const std::vector<float> factors = rope_factors(config); !factors.empty()) {
    plan.push_back({"rope_freqs.weight", DType::F32, {std::ssize(factors)}});
    tensors.push_back({.stored = plan.back().name, .shape = plan.back().shape, .values = factors});
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
