// Gemma 3, the text models.
#include <cmath>

#include "data/models/families/families.h"

namespace limbeck::data {
namespace {

using Json = ConfigFields::Json;

void read(const ConfigFields& fields, nn::ModelConfig& config) {
  for (const char* cap : {"final_logit_softcapping", "attn_logit_softcapping"}) fields.expect(cap, nullptr);
  fields.expect("attention_bias", false);
  fields.expect("use_bidirectional_attention", false);
  config.attention_scale = 1 / std::sqrt(fields.number_or("query_pre_attn_scalar", 256));
  config.embedding_scale = std::sqrt(static_cast<double>(config.width));
  const std::int64_t pattern =
      fields.integer_or(fields.has("sliding_window_pattern") ? "sliding_window_pattern" : "_sliding_window_pattern", 6);
  core::check(pattern > 0, "{}: sliding_window_pattern is {}, expected a positive number", fields.where(), pattern);
  read_windows(fields, config, [&](std::int64_t layer) { return (layer + 1) % pattern == 0; });
  // The bases of both kinds of layers: in version 4 rope_theta and rope_local_base_freq, of which the former is scaled.
  config.rope_base = fields.number_or("rope_theta", 1e6);
  config.window_rope_base = fields.number_or("rope_local_base_freq", 1e4);
  if (fields.has("rope_parameters")) {
    const ConfigFields rope = fields.section("rope_parameters");
    read_rope(rope.section("full_attention"), config.rope_base, config.rope_scaling, config.max_positions);
    nn::RopeScaling none;
    const ConfigFields sliding = rope.section("sliding_attention");
    read_rope(sliding, config.window_rope_base, none, config.max_positions);
    core::check(none.kind == nn::RopeScaling::Kind::None, "{}: is scaled, which is not supported: expected default",
                sliding.where());
  }
  if (config.window == 0) config.window_rope_base = 0;
}

void write(const nn::ModelConfig& config, Json& json) {
  const double own =
      config.attention_scale > 0 ? config.attention_scale : 1 / std::sqrt(static_cast<double>(config.head_width));
  const double scalar = 1 / (own * own), whole = std::round(scalar);
  const bool is_whole = std::abs(scalar - whole) < 1e-9 * scalar;  // as which transformers wants it
  json["query_pre_attn_scalar"] = is_whole ? Json(static_cast<std::int64_t>(whole)) : Json(scalar);
  json["attention_bias"] = false;
  json["final_logit_softcapping"] = nullptr;
  json["attn_logit_softcapping"] = nullptr;
  json["sliding_window"] = config.window > 0 ? Json(config.window) : Json(4096);
  json["layer_types"] = layer_types(config);
  const double sliding = config.window_rope_base > 0 ? config.window_rope_base : config.rope_base;
  json["rope_parameters"] = {{"full_attention", rope_parameters(config.rope_base, config.rope_scaling)},
                             {"sliding_attention", rope_parameters(sliding, {})}};
  json.erase("rope_theta");
  json.erase("rope_scaling");
}

/// llama.cpp knows the model of 27B parameters by its 62 layers.
double gguf_scale(const nn::ModelConfig& config) {
  const std::int64_t width = config.num_layers == 62 ? config.width / config.num_heads : config.head_width;
  return 1 / std::sqrt(static_cast<double>(width));
}

}  // namespace

const Family& gemma3_family() {
  static const Family family{.name = "Gemma 3",
                             .architecture = "Gemma3ForCausalLM",
                             .model_type = "gemma3_text",
                             .reward_architecture = "Gemma3TextForSequenceClassification",
                             .traits = {.head_norm = nn::HeadNorm::EachHead,
                                        .norm_placement = nn::NormPlacement::Around,
                                        .norm_offset = 1,
                                        .activation = nn::Activation::GeluTanh,
                                        .scales_embedding = true,
                                        .has_attention_scale = true,
                                        .windows = FamilyTraits::Windows::Some,
                                        .has_window_rope = true},
                             .names = {.mlp_norm = "pre_feedforward_layernorm",
                                       .attention_post_norm = "post_attention_layernorm",
                                       .mlp_post_norm = "post_feedforward_layernorm"},
                             .head_width = 256,
                             .tied_head = true,
                             .activation_field = "hidden_activation",
                             .gguf = "gemma3",
                             .gguf_says_window = true,
                             .gguf_is_full = [](std::int64_t layer) { return (layer + 1) % 6 == 0; },
                             .gguf_window_rope_base = 10000,
                             .gguf_attention_scale = gguf_scale,
                             .read = read,
                             .write = write};
  return family;
}

}  // namespace limbeck::data
