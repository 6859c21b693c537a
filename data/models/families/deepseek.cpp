// DeepSeek-V2 and V2-Lite; V3 and R1, whose shape Kimi K2 and Moonlight have too.
#include <cmath>

#include "core/nn/rope_scaling.h"
#include "data/models/families/deepseek_mixture.h"
#include "data/models/families/families.h"

namespace limbeck::data {
namespace {

using Json = ConfigFields::Json;

constexpr double norm_eps = 1e-6;  // of the latents' norms, whatever the config says of others

/// Scores are sharper where frequencies are stretched, by what mscale_all_dim says.
double attention_scale(const nn::ModelConfig& config) {
  const nn::RopeScaling& scaling = config.rope_scaling;
  const double m = scaling.kind == nn::RopeScaling::Kind::Yarn && scaling.mscale_all > 0
                       ? nn::yarn_mscale(scaling.factor, scaling.mscale_all)
                       : 1;
  return m * m / std::sqrt(static_cast<double>(config.head_width));
}

void read_common(const ConfigFields& fields, nn::ModelConfig& config) {
  fields.expect("attention_bias", false);
  fields.expect("moe_layer_freq", 1);
  nn::LatentConfig& latent = config.latent;
  latent.rank = fields.integer_or("kv_lora_rank", 512);
  latent.query_rank = fields.is_null("q_lora_rank") ? 0 : fields.integer_or("q_lora_rank", 1536);
  latent.rope_width = fields.integer_or("qk_rope_head_dim", 64);
  latent.value_width = fields.integer_or("v_head_dim", 128);
  latent.norm_eps = norm_eps;
  config.head_width = fields.integer_or("qk_nope_head_dim", 128) + latent.rope_width;
  if (config.rope_scaling.kind == nn::RopeScaling::Kind::Yarn && config.rope_scaling.mscale_all > 0)
    config.attention_scale = attention_scale(config);

  read_deepseek_mixture(fields, config);
}

void read_v2(const ConfigFields& fields, nn::ModelConfig& config) {
  fields.expect("mlp_bias", false);
  fields.expect("scoring_func", "softmax");
  fields.expect("norm_topk_prob", false);
  read_common(fields, config);
  config.moe.renormalise = false;
  if (!fields.has("topk_method") || fields.json()["topk_method"] == "greedy") return;
  fields.expect("topk_method", "group_limited_greedy");
  read_groups(fields, config.moe);
}

void read_v3(const ConfigFields& fields, nn::ModelConfig& config) {
  fields.expect("scoring_func", "sigmoid");
  fields.expect("topk_method", "noaux_tc");
  fields.expect("rope_interleave", true);
  read_common(fields, config);
  read_sigmoid_router(fields, config.moe);
}

void write_common(const nn::ModelConfig& config, Json& json) {
  const nn::LatentConfig& latent = config.latent;
  json["head_dim"] = latent.rope_width;
  json["kv_lora_rank"] = latent.rank;
  json["q_lora_rank"] = latent.query_rank > 0 ? Json(latent.query_rank) : Json();
  json["qk_nope_head_dim"] = config.head_width - latent.rope_width;
  json["qk_rope_head_dim"] = latent.rope_width;
  json["v_head_dim"] = latent.value_width;
  json["attention_bias"] = false;
  json["moe_layer_freq"] = 1;
  write_deepseek_mixture(config, json);
}

void write_v2(const nn::ModelConfig& config, Json& json) {
  write_common(config, json);
  json["mlp_bias"] = false;
  json["scoring_func"] = "softmax";
  json["topk_method"] = config.moe.num_groups > 1 ? "group_limited_greedy" : "greedy";
}

void write_v3(const nn::ModelConfig& config, Json& json) {
  write_common(config, json);
  json["rope_interleave"] = true;
  json["scoring_func"] = "sigmoid";
  json["topk_method"] = "noaux_tc";
}

std::optional<std::string> beyond_common(const nn::ModelConfig& config, nn::GroupScore group_score) {
  if (auto more = beyond_deepseek_mixture(config.moe, group_score)) return more;
  if (config.is_latent() && std::abs(config.latent.norm_eps - norm_eps) > 1e-6 * norm_eps)  // GGUF's are float32
    return fmt::format("latent.norm_eps is {}, expected {}", config.latent.norm_eps, norm_eps);
  const double usual = 1 / std::sqrt(static_cast<double>(config.head_width));
  const double scale = config.attention_scale > 0 ? config.attention_scale : usual, expected = attention_scale(config);
  if (std::abs(scale - expected) > 1e-9 * expected)
    return fmt::format("attention_scale is {}, expected that of the head width and mscale_all, {}", scale, expected);
  return std::nullopt;
}

std::optional<std::string> beyond_v2(const nn::ModelConfig& config) {
  return beyond_common(config, nn::GroupScore::Best);
}
std::optional<std::string> beyond_v3(const nn::ModelConfig& config) {
  return beyond_common(config, nn::GroupScore::BestTwo);
}

}  // namespace

const Family& deepseek_v2_family() {
  static const Family family{.name = "DeepSeek-V2",
                             .architecture = "DeepseekV2ForCausalLM",
                             .model_type = "deepseek_v2",
                             .reward_architecture = "DeepseekV2ForSequenceClassification",
                             .traits = {.has_attention_scale = true,
                                        .has_latents = true,
                                        .experts = FamilyTraits::Experts::Some,
                                        .may_renormalise = false,
                                        .may_not_renormalise = true,
                                        .has_shared_experts = true,
                                        .shared_gate = false,
                                        .has_weight_scale = true,
                                        .leads_with_dense = true,
                                        .has_groups = true},
                             .names = {.shared = "shared_experts"},
                             .num_experts_field = "n_routed_experts",
                             .gguf = "deepseek2",
                             .gguf_renormalises = false,
                             .gguf_attention_scale = attention_scale,
                             .read = read_v2,
                             .write = write_v2,
                             .beyond = beyond_v2};
  return family;
}

const Family& deepseek_v3_family() {
  static const Family family{.name = "DeepSeek-V3",
                             .architecture = "DeepseekV3ForCausalLM",
                             .model_type = "deepseek_v3",
                             .reward_architecture = "DeepseekV3ForSequenceClassification",
                             .also = "R1, Kimi K2, Moonlight",
                             .traits = {.has_attention_scale = true,
                                        .has_latents = true,
                                        .experts = FamilyTraits::Experts::Some,
                                        .may_not_renormalise = true,
                                        .has_shared_experts = true,
                                        .shared_gate = false,
                                        .has_weight_scale = true,
                                        .leads_with_dense = true,
                                        .has_groups = true,
                                        .scores = nn::RouterScores::Sigmoid,
                                        .selection_bias = true,
                                        .predicts = true},
                             .names = {.shared = "shared_experts"},
                             .num_experts_field = "n_routed_experts",
                             .gguf = "deepseek2",
                             .gguf_attention_scale = attention_scale,
                             .read = read_v3,
                             .write = write_v3,
                             .beyond = beyond_v3};
  return family;
}

}  // namespace limbeck::data
