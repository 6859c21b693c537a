// Phi-3 and Phi-4-mini; Phi-3.5-MoE.
#include <initializer_list>

#include "data/models/families/families.h"

namespace limbeck::data {
namespace {

using Json = ConfigFields::Json;
using Scaling = nn::RopeScaling;

std::vector<double> factors_of(const ConfigFields& rope, const char* name) {
  const Json values = rope.has(name) ? rope.json()[name] : Json();
  core::check(values.is_array(), "{}: {} is {}, expected a list of numbers", rope.where(), name, rope.text(name));
  std::vector<double> factors;
  for (const Json& value : values) {
    core::check(value.is_number(), "{}: {} has {}, expected numbers", rope.where(), name, value.dump());
    factors.push_back(value.get<double>());
  }
  return factors;
}

bool is_of_long_rope(const ConfigFields& rope, std::initializer_list<const char*> names) {
  const char* const field = rope.has("rope_type") ? "rope_type" : "type";
  const Json kind = rope.has(field) ? rope.json()[field] : Json("default");
  if (kind == "default") return false;
  for (const char* name : names)
    if (kind == name) return true;
  core::fail("{}: {} is {}, which is not supported: expected default or longrope", rope.where(), field, kind.dump());
}

/// The base and its scaling, at the top and in rope_scaling (transformers 4) or in rope_parameters (5). `original`: of
/// the training, where config.json does not say it at its top; 0: it is said beside the factors, or max_positions.
void read_long_rope(const ConfigFields& fields, nn::ModelConfig& config, std::int64_t original,
                    std::initializer_list<const char*> names) {
  for (const char* section : {"rope_scaling", "rope_parameters"}) {
    if (!fields.has(section)) continue;
    const ConfigFields rope = fields.section(section);
    config.rope_base = rope.number_or("rope_theta", config.rope_base);
    if (!is_of_long_rope(rope, names)) continue;
    Scaling& scaling = config.rope_scaling;
    scaling.kind = Scaling::Kind::LongRope;
    const std::int64_t otherwise =
        original > 0 ? original : rope.integer_or("original_max_position_embeddings", config.max_positions);
    scaling.original_positions = fields.integer_or("original_max_position_embeddings", otherwise);
    core::check(scaling.original_positions > 0,
                "{}: original_max_position_embeddings is {}, expected a positive number", fields.where(),
                scaling.original_positions);
    scaling.factor = rope.number_or(
        "factor", static_cast<double>(config.max_positions) / static_cast<double>(scaling.original_positions));
    scaling.attention_factor = rope.number_or("attention_factor", 0);
    scaling.short_factors = factors_of(rope, "short_factor");
    scaling.long_factors = factors_of(rope, "long_factor");
  }
  read_rotary_width(fields, 1, config);
}

/// rope_scaling as transformers 4 has it: these fields and no other.
Json long_rope_of(const nn::ModelConfig& config) {
  const Scaling& scaling = config.rope_scaling;
  if (scaling.kind == Scaling::Kind::None) return {};
  Json json = {{"type", "longrope"}, {"short_factor", scaling.short_factors}, {"long_factor", scaling.long_factors}};
  const double usual = static_cast<double>(config.max_positions) / static_cast<double>(scaling.original_positions);
  if (scaling.factor != usual) json["factor"] = scaling.factor;  // which transformers 5 alone reads
  if (scaling.attention_factor > 0) json["attention_factor"] = scaling.attention_factor;
  return json;
}

void read_phi3(const ConfigFields& fields, nn::ModelConfig& config) {
  // What early files call su, and such as call it yarn, transformers takes for longrope.
  read_long_rope(fields, config, /*original=*/4096, {"longrope", "su", "yarn"});
  for (const char* name : {"attention_bias", "mlp_bias", "lm_head_bias"}) fields.expect(name, false);
  read_window(fields, config);
}

void write_phi3(const nn::ModelConfig& config, Json& json) {
  json.erase("head_dim");
  json["sliding_window"] = window_of(config);
  json["rope_scaling"] = long_rope_of(config);
  json["original_max_position_embeddings"] = config.rope_scaling.kind == Scaling::Kind::LongRope
                                                 ? config.rope_scaling.original_positions
                                                 : config.max_positions;
  if (const double part = rotary_part(config); part < 1) json["partial_rotary_factor"] = part;
  json["pad_token_id"] = nullptr;  // its default would be a token
}

void read_phimoe(const ConfigFields& fields, nn::ModelConfig& config) {
  read_long_rope(fields, config, /*original=*/0, {"longrope"});
  if (config.rope_scaling.kind == Scaling::Kind::LongRope) {
    const ConfigFields rope = fields.section(fields.has("rope_parameters") ? "rope_parameters" : "rope_scaling");
    config.rope_scaling.short_scale = rope.number("short_mscale");
    config.rope_scaling.long_scale = rope.number("long_mscale");
  }
  for (const char* name : {"attention_bias", "lm_head_bias"})
    core::check(fields.flag(name), "{}: {} is {}, which is not supported: expected true", fields.where(), name,
                fields.text(name));
  fields.expect("num_experts_per_tok", 2);
  read_window(fields, config);
  config.moe.renormalise = false;
  config.moe.mixer_jitter = fields.number_or("router_jitter_noise", 0.01);
}

void write_phimoe(const nn::ModelConfig& config, Json& json) {
  json.erase("head_dim");
  json["sliding_window"] = window_of(config);
  json["rope_scaling"] = long_rope_of(config);
  if (const Scaling& scaling = config.rope_scaling; scaling.kind == Scaling::Kind::LongRope) {
    json["rope_scaling"]["short_mscale"] = scaling.short_scale;
    json["rope_scaling"]["long_mscale"] = scaling.long_scale;
    json["rope_scaling"]["original_max_position_embeddings"] = scaling.original_positions;
  }
  json["attention_bias"] = true;
  json["lm_head_bias"] = true;
  json["router_jitter_noise"] = config.moe.mixer_jitter;
}

}  // namespace

const Family& phi3_family() {
  static const Family family{.name = "Phi-3",
                             .architecture = "Phi3ForCausalLM",
                             .model_type = "phi3",
                             .reward_architecture = "Phi3ForSequenceClassification",
                             .also = "Phi-4-mini",
                             .traits = {.windows = FamilyTraits::Windows::All,
                                        .ropes = FamilyTraits::Ropes::Long,
                                        .may_turn_partly = true,
                                        .has_usual_head_width = true},
                             .names = {.qkv = "qkv_proj", .gate_up = "gate_up_proj"},
                             .norm_eps = 1e-5,
                             .gguf = "phi3",
                             .gguf_fuses = true,
                             .gguf_says_window = true,
                             .read = read_phi3,
                             .write = write_phi3};
  return family;
}

const Family& phimoe_family() {
  static const Family family{.name = "Phi-3.5-MoE",
                             .architecture = "PhimoeForCausalLM",
                             .model_type = "phimoe",
                             .reward_architecture = "PhimoeForSequenceClassification",
                             .traits = {.attention_bias = true,
                                        .attention_output_bias = true,
                                        .head_bias = true,
                                        .norm_kind = nn::NormKind::Layer,
                                        .experts = FamilyTraits::Experts::All,
                                        .may_renormalise = false,
                                        .may_not_renormalise = true,
                                        .router = nn::RouterKind::SparseMixer,
                                        .windows = FamilyTraits::Windows::All,
                                        .ropes = FamilyTraits::Ropes::Long,
                                        .has_long_scales = true,
                                        .has_usual_head_width = true},
                             .names = {.experts = "block_sparse_moe", .gate = "w1", .up = "w3", .down = "w2"},
                             .norm_eps = 1e-5,
                             .rope_base = 1e6,
                             .num_kv_heads = 8,
                             .other_architecture = "PhiMoEForCausalLM",
                             .num_experts_field = "num_local_experts",
                             .expert_width_field = "intermediate_size",
                             .read = read_phimoe,
                             .write = write_phimoe};
  return family;
}

}  // namespace limbeck::data
