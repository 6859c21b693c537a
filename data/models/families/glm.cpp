// GLM-4, dense, with norms around its blocks; GLM-4.5 and its successors of the same shape: attention as of Llama, of
// whose heads a part turns; DeepSeek-V3's experts.
#include "data/models/families/deepseek_mixture.h"
#include "data/models/families/families.h"

namespace limbeck::data {
namespace {

using Json = ConfigFields::Json;

void read_glm4(const ConfigFields& fields, nn::ModelConfig& config) {
  config.attention_bias = fields.flag("attention_bias", true);
  read_rotary_width(fields, 0.5, config);
}

void write_glm4(const nn::ModelConfig& config, Json& json) {
  json["attention_bias"] = config.attention_bias;
  json["partial_rotary_factor"] = rotary_part(config);
}

void read_glm4_moe(const ConfigFields& fields, nn::ModelConfig& config) {
  constexpr DeepseekMixtureDefaults otherwise{.shared = 1, .groups = 1, .dense = 1};
  config.attention_bias = fields.flag("attention_bias");
  config.head_norm = fields.flag("use_qk_norm") ? nn::HeadNorm::EachHead : nn::HeadNorm::None;
  read_rotary_width(fields, 0.5, config);
  read_deepseek_mixture(fields, config, otherwise);
  read_sigmoid_router(fields, config.moe, otherwise);
}

void write_glm4_moe(const nn::ModelConfig& config, Json& json) {
  json["attention_bias"] = config.attention_bias;
  json["use_qk_norm"] = config.head_norm == nn::HeadNorm::EachHead;
  json["partial_rotary_factor"] = rotary_part(config);
  write_deepseek_mixture(config, json);
}

std::optional<std::string> beyond_glm4_moe(const nn::ModelConfig& config) {
  return beyond_deepseek_mixture(config.moe, nn::GroupScore::BestTwo);
}

}  // namespace

const Family& glm4_family() {
  static const Family family{.name = "GLM-4",
                             .architecture = "Glm4ForCausalLM",
                             .model_type = "glm4",
                             .reward_architecture = "Glm4ForSequenceClassification",
                             .traits = {.attention_bias = true,
                                        .may_lack_attention_bias = true,
                                        .norm_placement = nn::NormPlacement::Around,
                                        .may_turn_partly = true},
                             .names = {.gate_up = "gate_up_proj",
                                       .interleaves = true,
                                       .attention_post_norm = "post_self_attn_layernorm",
                                       .mlp_post_norm = "post_mlp_layernorm"},
                             .norm_eps = 1.5625e-7,
                             .num_kv_heads = 2,
                             .head_width = 128,
                             .gguf = "glm4",
                             .gguf_fuses_gate = true,
                             .read = read_glm4,
                             .write = write_glm4};
  return family;
}

const Family& glm4_moe_family() {
  static const Family family{.name = "GLM-4.5",
                             .architecture = "Glm4MoeForCausalLM",
                             .model_type = "glm4_moe",
                             .also = "GLM-4.6, GLM-4.7",
                             .traits = {.attention_bias = true,
                                        .may_lack_attention_bias = true,
                                        .head_norm = nn::HeadNorm::EachHead,
                                        .may_lack_head_norm = true,
                                        .experts = FamilyTraits::Experts::Some,
                                        .may_not_renormalise = true,
                                        .has_shared_experts = true,
                                        .shared_gate = false,
                                        .has_weight_scale = true,
                                        .leads_with_dense = true,
                                        .has_groups = true,
                                        .scores = nn::RouterScores::Sigmoid,
                                        .selection_bias = true,
                                        .may_turn_partly = true,
                                        .predicts = true},
                             .names = {.shared = "shared_experts"},
                             .norm_eps = 1e-5,
                             .num_kv_heads = 8,
                             .num_experts_field = "n_routed_experts",
                             .gguf = "glm4moe",
                             .gguf_mlp_norm = "post_attention_norm",
                             .gguf_predicts = true,
                             .read = read_glm4_moe,
                             .write = write_glm4_moe,
                             .beyond = beyond_glm4_moe};
  return family;
}

}  // namespace limbeck::data
