// OLMo 2, whose norms stand behind the blocks; OLMoE, experts in every layer.
#include "data/models/families/families.h"

namespace limbeck::data {
namespace {

void read_olmo2(const ConfigFields& fields, nn::ModelConfig&) { fields.expect("attention_bias", false); }

void read_olmoe(const ConfigFields& fields, nn::ModelConfig& config) {
  fields.expect("attention_bias", false);
  fields.expect("clip_qkv", nullptr);
  config.moe.renormalise = fields.flag("norm_topk_prob");
}

void write_olmo2(const nn::ModelConfig&, ConfigFields::Json& json) { json["attention_bias"] = false; }

void write_olmoe(const nn::ModelConfig& config, ConfigFields::Json& json) {
  json["attention_bias"] = false;
  json["norm_topk_prob"] = config.moe.renormalise;
}

}  // namespace

const Family& olmo2_family() {
  static const Family family{
      .name = "OLMo 2",
      .architecture = "Olmo2ForCausalLM",
      .model_type = "olmo2",
      .reward_architecture = "Olmo2ForSequenceClassification",
      .traits = {.head_norm = nn::HeadNorm::AllHeads, .norm_placement = nn::NormPlacement::After},
      .names = {.attention_post_norm = "post_attention_layernorm", .mlp_post_norm = "post_feedforward_layernorm"},
      .norm_eps = 1e-5,
      .gguf = "olmo2",
      .read = read_olmo2,
      .write = write_olmo2};
  return family;
}

const Family& olmoe_family() {
  static const Family family{.name = "OLMoE",
                             .architecture = "OlmoeForCausalLM",
                             .model_type = "olmoe",
                             .traits = {.head_norm = nn::HeadNorm::AllHeads,
                                        .experts = FamilyTraits::Experts::All,
                                        .may_not_renormalise = true},
                             .norm_eps = 1e-5,
                             .expert_width_field = "intermediate_size",
                             .gguf = "olmoe",
                             .gguf_renormalises = false,
                             .read = read_olmoe,
                             .write = write_olmoe};
  return family;
}

}  // namespace limbeck::data
