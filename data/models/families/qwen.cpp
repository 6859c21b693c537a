// Qwen2, 2.5, 3 and their mixtures.
#include "data/models/families/families.h"

namespace limbeck::data {
namespace {

using Json = ConfigFields::Json;

/// The first max_window_layers layers have no window, where use_sliding_window says that there is one.
void read_qwen_windows(const ConfigFields& fields, nn::ModelConfig& config) {
  const bool any = fields.flag("use_sliding_window");
  const std::int64_t first = fields.integer_or("max_window_layers", 28);
  read_windows(fields, config, [&](std::int64_t layer) { return !any || layer < first; });
}

void write_qwen_windows(const nn::ModelConfig& config, Json& json) {
  json["use_sliding_window"] = config.window > 0;
  json["sliding_window"] = window_of(config);
  json["layer_types"] = layer_types(config);
}

void read_qwen2(const ConfigFields& fields, nn::ModelConfig& config) { read_qwen_windows(fields, config); }

void read_qwen2_moe(const ConfigFields& fields, nn::ModelConfig& config) {
  fields.expect("qkv_bias", true);
  read_qwen_windows(fields, config);
  read_dense_layers(fields, config);
  config.moe.renormalise = fields.flag("norm_topk_prob");
  config.moe.shared_width = fields.integer("shared_expert_intermediate_size");
  config.moe.shared_gate = true;
}

void write_mixture(const nn::ModelConfig& config, Json& json) {
  json["decoder_sparse_step"] = 1;
  json["mlp_only_layers"] = config.moe.dense_layers;
  json["norm_topk_prob"] = config.moe.renormalise;
}

void write_qwen2_moe(const nn::ModelConfig& config, Json& json) {
  write_qwen_windows(config, json);
  write_mixture(config, json);
  json["qkv_bias"] = true;
  json["shared_expert_intermediate_size"] = config.moe.shared_width;
}

void read_qwen3(const ConfigFields& fields, nn::ModelConfig& config) {
  fields.expect("attention_bias", false);
  read_qwen_windows(fields, config);
}

void write_qwen3(const nn::ModelConfig& config, Json& json) {
  json["attention_bias"] = false;
  write_qwen_windows(config, json);
}

void read_qwen3_moe(const ConfigFields& fields, nn::ModelConfig& config) {
  fields.expect("attention_bias", false);
  if (fields.flag("use_sliding_window")) config.window = fields.integer("sliding_window");
  read_dense_layers(fields, config);
  config.moe.renormalise = fields.flag("norm_topk_prob");
}

void write_qwen3_moe(const nn::ModelConfig& config, Json& json) {
  json["attention_bias"] = false;
  json["use_sliding_window"] = config.window > 0;
  json["sliding_window"] = window_of(config);
  write_mixture(config, json);
}

}  // namespace

const Family& qwen2_family() {
  static const Family family{.name = "Qwen2",
                             .architecture = "Qwen2ForCausalLM",
                             .model_type = "qwen2",
                             .reward_architecture = "Qwen2ForSequenceClassification",
                             .traits = {.attention_bias = true, .windows = FamilyTraits::Windows::Some},
                             .gguf = "qwen2",
                             .read = read_qwen2,
                             .write = write_qwen_windows};
  return family;
}

const Family& qwen2_moe_family() {
  static const Family family{.name = "Qwen2-MoE",
                             .architecture = "Qwen2MoeForCausalLM",
                             .model_type = "qwen2_moe",
                             .reward_architecture = "Qwen2MoeForSequenceClassification",
                             .traits = {.attention_bias = true,
                                        .experts = FamilyTraits::Experts::Some,
                                        .may_not_renormalise = true,
                                        .has_shared_experts = true,
                                        .windows = FamilyTraits::Windows::Some},
                             .gguf = "qwen2moe",
                             .gguf_renormalises = false,
                             .read = read_qwen2_moe,
                             .write = write_qwen2_moe};
  return family;
}

const Family& qwen3_family() {
  static const Family family{.name = "Qwen3",
                             .architecture = "Qwen3ForCausalLM",
                             .model_type = "qwen3",
                             .reward_architecture = "Qwen3ForSequenceClassification",
                             .traits = {.head_norm = nn::HeadNorm::EachHead, .windows = FamilyTraits::Windows::Some},
                             .head_width = 128,
                             .gguf = "qwen3",
                             .read = read_qwen3,
                             .write = write_qwen3};
  return family;
}

const Family& qwen3_moe_family() {
  static const Family family{.name = "Qwen3-MoE",
                             .architecture = "Qwen3MoeForCausalLM",
                             .model_type = "qwen3_moe",
                             .reward_architecture = "Qwen3MoeForSequenceClassification",
                             .traits = {.head_norm = nn::HeadNorm::EachHead,
                                        .experts = FamilyTraits::Experts::Some,
                                        .may_not_renormalise = true,
                                        .windows = FamilyTraits::Windows::All},
                             .num_kv_heads = 4,
                             .gguf = "qwen3moe",
                             .gguf_renormalises = true,
                             .read = read_qwen3_moe,
                             .write = write_qwen3_moe};
  return family;
}

}  // namespace limbeck::data
