// gpt-oss.
#include "data/models/families/families.h"

namespace limbeck::data {
namespace {

using Json = ConfigFields::Json;

void read(const ConfigFields& fields, nn::ModelConfig& config) {
  fields.expect("attention_bias", true);
  fields.expect("swiglu_alpha", 1.702);
  config.activation_limit = fields.number_or("swiglu_limit", 7);
  read_windows(fields, config, [](std::int64_t layer) { return layer % 2 == 1; });
}

void write(const nn::ModelConfig& config, Json& json) {
  json["attention_bias"] = true;
  json["swiglu_alpha"] = 1.702;
  json["swiglu_limit"] = config.activation_limit;
  json["sliding_window"] = config.window > 0 ? Json(config.window) : Json(128);
  json["layer_types"] = layer_types(config);
}

}  // namespace

const Family& gpt_oss_family() {
  static const Family family{.name = "gpt-oss",
                             .architecture = "GptOssForCausalLM",
                             .model_type = "gpt_oss",
                             .reward_architecture = "GptOssForSequenceClassification",
                             .traits = {.attention_bias = true,
                                        .attention_sinks = true,
                                        .activation = nn::Activation::ClampedSwish,
                                        .attention_output_bias = true,
                                        .experts = FamilyTraits::Experts::All,
                                        .router_bias = true,
                                        .expert_bias = true,
                                        .windows = FamilyTraits::Windows::Some},
                             .names = {.router = "router", .fused_experts = true},
                             .norm_eps = 1e-5,
                             .rope_base = 150000,
                             .num_kv_heads = 8,
                             .head_width = 64,
                             .activation_name = "silu",
                             .num_experts_field = "num_local_experts",
                             .expert_width_field = "intermediate_size",
                             .gguf = "gpt-oss",
                             .gguf_says_window = true,
                             .gguf_renormalises = true,
                             .gguf_is_full = [](std::int64_t layer) { return layer % 2 == 1; },
                             .gguf_rope_truncates = false,
                             .gguf_activation_limit = 7,
                             .gguf_mlp_norm = "post_attention_norm",
                             .read = read,
                             .write = write};
  return family;
}

}  // namespace limbeck::data
