// Granite 4 of Mamba-2 layers and attention, which tells no positions or turns, with experts in all layers or none.
#include <cmath>

#include "data/models/families/families.h"

namespace limbeck::data {
namespace {

using Json = ConfigFields::Json;

void read(const ConfigFields& fields, nn::ModelConfig& config) {
  fields.expect("attention_bias", false);
  read_mamba(fields, config);
  const char* const list = fields.has("layer_types") ? "layer_types" : "layers_block_type";
  const std::vector<std::string> types = read_layer_types(fields, list, config.num_layers);
  for (std::size_t i = 0; i < types.size(); ++i) {
    const bool attends = types[i] == "attention" || types[i] == "full_attention";
    core::check(attends || types[i] == "mamba" || types[i] == "linear_attention",
                "{}: {} has {} for layer {}, expected attention, full_attention, mamba or linear_attention",
                fields.where(), list, types[i], i);
    if (attends) config.mamba.attention_layers.push_back(static_cast<std::int64_t>(i));
  }
  const bool turns = fields.has("position_embedding_type") && fields.json()["position_embedding_type"] == "rope";
  if (!turns) {
    config.positions = nn::Positions::None;
    config.rope_scaling = {};
  }
  config.attention_scale = fields.number_or("attention_multiplier", 1);
  config.embedding_scale = fields.number_or("embedding_multiplier", 1);
  config.residual_scale = fields.number_or("residual_multiplier", 1);
  const double divisor = fields.number_or("logits_scaling", 1);
  core::check(divisor > 0, "{}: logits_scaling is {}, expected a positive number", fields.where(), divisor);
  config.logits_scale = 1 / divisor;
  const std::int64_t shared = fields.integer_or("shared_intermediate_size", 1024);
  if (config.moe.num_experts > 0)
    config.moe.shared_width = shared;
  else
    config.mlp_width = shared;
}

void write(const nn::ModelConfig& config, Json& json) {
  write_mamba(config, json);
  json.erase("head_dim");
  const bool has_experts = config.num_moe_layers() > 0;
  json["attention_bias"] = false;
  json["intermediate_size"] = has_experts ? config.moe.expert_width : config.mlp_width;
  json["shared_intermediate_size"] = has_experts ? config.moe.shared_width : config.mlp_width;
  if (!has_experts) json["num_local_experts"] = json["num_experts_per_tok"] = 0;
  json["layer_types"] = Json::array();
  for (std::int64_t layer = 0; layer < config.num_layers; ++layer)
    json["layer_types"].push_back(config.is_mamba_layer(layer) ? "mamba" : "attention");
  json["position_embedding_type"] = config.positions == nn::Positions::Rotary ? Json("rope") : Json(nullptr);
  json["attention_multiplier"] =
      config.attention_scale > 0 ? config.attention_scale : 1 / std::sqrt(static_cast<double>(config.head_width));
  json["embedding_multiplier"] = config.embedding_scale;
  json["residual_multiplier"] = config.residual_scale;
  json["logits_scaling"] = 1 / config.logits_scale;
}

}  // namespace

const Family& granite_hybrid_family() {
  static const Family family{.name = "Granite 4 (hybrid)",
                             .architecture = "GraniteMoeHybridForCausalLM",
                             .model_type = "granitemoehybrid",
                             .traits = {.may_lack_positions = true,
                                        .has_scales = true,
                                        .has_attention_scale = true,
                                        .experts = FamilyTraits::Experts::All,
                                        .may_lack_experts = true,
                                        .has_shared_experts = true,
                                        .shared_gate = false,
                                        .has_usual_head_width = true,
                                        .mamba = FamilyTraits::Mamba::Some},
                             .names = {.mlp = "shared_mlp",
                                       .gate_up = "input_linear",
                                       .mlp_down = "output_linear",
                                       .experts = "block_sparse_moe",
                                       .router = "router.layer",
                                       .joined_experts = true},
                             .num_experts_field = "num_local_experts",
                             .expert_width_field = "intermediate_size",
                             .gguf = "granitehybrid",
                             .gguf_interleaves = true,
                             .gguf_renormalises = true,
                             .read = read,
                             .write = write,
                             .beyond = beyond_mamba};
  return family;
}

}  // namespace limbeck::data
