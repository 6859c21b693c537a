// Fields of config.json, both ways.
#include <algorithm>
#include <array>
#include <cmath>

#include "data/models/families/family.h"

namespace limbeck::data {

using core::check;
using Json = ConfigFields::Json;
using Scaling = nn::RopeScaling;

namespace {

Scaling::Kind kind_of(const ConfigFields& rope) {
  const char* const name = rope.has("rope_type") ? "rope_type" : "type";
  const std::string kind = rope.has(name) ? rope.json()[name].dump() : "\"default\"";
  if (kind == "\"default\"") return Scaling::Kind::None;
  if (kind == "\"linear\"") return Scaling::Kind::Linear;
  if (kind == "\"llama3\"") return Scaling::Kind::Llama3;
  if (kind == "\"yarn\"") return Scaling::Kind::Yarn;
  core::fail("{}: {} is {}, which is not supported: expected default, linear, llama3 or yarn", rope.where(), name,
             kind);
}

const char* activation_of(const Family& family) {
  return family.activation_name != nullptr ? family.activation_name : usual_name(family.traits.activation);
}

}  // namespace

const char* usual_name(nn::Activation activation) {
  constexpr std::array names{"silu", "gelu_pytorch_tanh", "gelu", "clamped swish"};
  return names.at(static_cast<std::size_t>(activation));
}

void set_traits(const FamilyTraits& traits, nn::ModelConfig& config) {
  config.attention_bias = traits.attention_bias;
  config.head_norm = traits.head_norm;
  config.norm_placement = traits.norm_placement;
  config.norm_offset = traits.norm_offset;
  config.activation = traits.activation;
  config.attention_output_bias = traits.attention_output_bias;
  config.mlp_bias = traits.mlp_bias;
  config.head_bias = traits.head_bias;
  config.mlp_gate = traits.mlp_gate;
  config.norm_kind = traits.norm_kind;
  config.positions = traits.positions;
  config.moe.router = traits.router;
  config.attention_sinks = traits.attention_sinks;
  config.moe.router_bias = traits.router_bias;
  config.moe.expert_bias = traits.expert_bias;
  config.feed_forward = traits.mamba != FamilyTraits::Mamba::All;
}

void set_no_attention(nn::ModelConfig& config) {
  config.num_heads = config.num_kv_heads = 1;
  config.head_width = 2;
  config.max_positions = std::int64_t{1} << 20U;
}

namespace {

void read_attention(const Family& family, const ConfigFields& fields, nn::ModelConfig& config) {
  const std::string& where = fields.where();
  const FamilyTraits& traits = family.traits;
  const FamilyFields& names = family.fields;
  config.num_heads = fields.integer(names.num_heads);
  // What is absent is what transformers takes then; null is one for each head everywhere.
  const bool has_own = family.num_kv_heads && !fields.is_null("num_key_value_heads");
  config.num_kv_heads = fields.integer_or("num_key_value_heads", has_own ? *family.num_kv_heads : config.num_heads);
  config.max_positions = fields.integer(names.max_positions);
  check(config.num_heads > 0, "{}: {} is {}, expected a positive number", where, names.num_heads, config.num_heads);
  const bool has_width =
      traits.has_latents || fields.has("head_dim") || (family.head_width && !fields.is_null("head_dim"));
  check(has_width || config.width % config.num_heads == 0,
        "{}: {} is {}, expected a multiple of {} = {} (there is no head_dim)", where, names.width, config.width,
        names.num_heads, config.num_heads);
  config.head_width =
      fields.integer_or("head_dim", has_width ? family.head_width.value_or(0) : config.width / config.num_heads);

  // The base at the top and its scaling in rope_scaling (transformers 4), or both in rope_parameters (5).
  config.rope_base = fields.number_or("rope_theta", family.rope_base);
  if (traits.ropes == FamilyTraits::Ropes::Usual)
    for (const char* name : {"rope_scaling", "rope_parameters"})
      if (fields.has(name) && !(traits.has_window_rope && fields.json()[name].contains("full_attention")))
        read_rope(fields.section(name), config.rope_base, config.rope_scaling, config.max_positions,
                  traits.may_turn_partly);
}

}  // namespace

nn::ModelConfig read_config(const Family& family, const ConfigFields& fields) {
  const std::string& where = fields.where();
  const FamilyTraits& traits = family.traits;
  const FamilyFields& names = family.fields;
  fields.expect(family.activation_field, activation_of(family));
  if (traits.ropes == FamilyTraits::Ropes::Usual && !traits.may_turn_partly)
    fields.expect("partial_rotary_factor", 1.0);

  nn::ModelConfig config;
  config.vocabulary = fields.integer("vocab_size");
  config.width = fields.integer(names.width);
  config.num_layers = fields.integer(names.num_layers);
  check(config.num_layers > 0 && config.num_layers <= nn::ModelLimits::num_layers, "{}: {} is {}, expected 1 to {}",
        where, names.num_layers, config.num_layers, nn::ModelLimits::num_layers);
  config.norm_eps = fields.number_or(names.norm_eps, family.norm_eps);
  config.tied_head = fields.flag("tie_word_embeddings", family.tied_head);
  if (traits.mamba == FamilyTraits::Mamba::All)
    set_no_attention(config);
  else
    read_attention(family, fields, config);
  set_traits(traits, config);
  const bool has_experts = traits.experts != FamilyTraits::Experts::None;
  if (has_experts)
    config.moe.num_experts =
        fields.integer(fields.has(family.num_experts_field) ? family.num_experts_field : "num_local_experts");
  if (has_experts && (config.moe.num_experts != 0 || !traits.may_lack_experts)) {
    config.moe.experts_per_token = fields.integer("num_experts_per_tok");
    config.moe.expert_width = fields.integer(family.expert_width_field);
    check(config.moe.num_experts > 0, "{}: {} is {}, expected a positive number", where, family.num_experts_field,
          config.moe.num_experts);
  } else if (config.feed_forward) {
    check(family.mlp_widths == 0 || (config.width > 0 && config.width <= nn::ModelLimits::width),
          "{}: {} is {}, expected 1 to {}", where, names.width, config.width, nn::ModelLimits::width);
    const bool is_said = family.mlp_widths == 0 || fields.has(names.mlp_width);
    config.mlp_width = is_said ? fields.integer(names.mlp_width) : family.mlp_widths * config.width;
  }
  if (traits.predicts) config.num_predict_layers = fields.integer_or("num_nextn_predict_layers", 0);
  family.read(fields, config);
  nn::validate(config, where);
  return config;
}

Json write_config(const Family& family, const nn::ModelConfig& config) {
  const FamilyFields& names = family.fields;
  Json json = {{"architectures", {family.architecture}},
               {"model_type", family.model_type},
               {"vocab_size", config.vocabulary},
               {names.width, config.width},
               {names.mlp_width, config.mlp_width > 0 ? config.mlp_width : config.moe.expert_width},
               {names.num_layers, config.num_layers},
               {names.num_heads, config.num_heads},
               {"num_key_value_heads", config.num_kv_heads},
               {"head_dim", config.head_width},
               {family.activation_field, activation_of(family)},
               {names.max_positions, config.max_positions},
               {names.norm_eps, config.norm_eps},
               {"rope_theta", config.rope_base},
               {"rope_scaling", nullptr},
               {"tie_word_embeddings", config.tied_head}};
  if (config.rope_scaling.kind != Scaling::Kind::None && family.traits.ropes == FamilyTraits::Ropes::Usual) {
    json["rope_scaling"] = rope_parameters(config.rope_base, config.rope_scaling);
    json["rope_scaling"].erase("rope_theta");
  }
  if (family.traits.experts != FamilyTraits::Experts::None && config.num_moe_layers() > 0) {
    json[family.num_experts_field] = config.moe.num_experts;
    json["num_experts_per_tok"] = config.moe.experts_per_token;
    json[family.expert_width_field] = config.moe.expert_width;
  }
  if (family.traits.predicts) json["num_nextn_predict_layers"] = config.num_predict_layers;
  family.write(config, json);
  return json;
}

Json layer_types(const nn::ModelConfig& config) {
  Json types = Json::array();
  for (std::int64_t layer = 0; layer < config.num_layers; ++layer)
    types.push_back(config.layer(layer).window > 0 ? "sliding_attention" : "full_attention");
  return types;
}

void read_dense_width(const ConfigFields& fields, nn::ModelConfig& config) {
  config.mlp_width = fields.integer("intermediate_size");
  check(config.mlp_width > 0, "{}: intermediate_size is {}, expected a positive number", fields.where(),
        config.mlp_width);
}

void read_dense_layers(const ConfigFields& fields, nn::ModelConfig& config) {
  const std::int64_t step = fields.integer_or("decoder_sparse_step", 1);
  check(step > 0, "{}: decoder_sparse_step is {}, expected a positive number", fields.where(), step);
  const Json named = fields.has("mlp_only_layers") ? fields.json()["mlp_only_layers"] : Json::array();
  check(named.is_array(), "{}: mlp_only_layers is {}, expected a list of layers", fields.where(), named.dump());
  for (std::int64_t layer = 0; layer < config.num_layers; ++layer)
    if ((layer + 1) % step != 0 || std::ranges::find(named, Json(layer)) != named.end())
      config.moe.dense_layers.push_back(layer);
  read_dense_width(fields, config);
  if (static_cast<std::int64_t>(config.moe.dense_layers.size()) == config.num_layers)
    core::fail("{}: no layer has experts, expected one or more", fields.where());
}

void read_rope(const ConfigFields& rope, double& base, Scaling& scaling, std::int64_t max_positions,
               bool may_turn_partly) {
  base = rope.number_or("rope_theta", base);
  if (!may_turn_partly) rope.expect("partial_rotary_factor", 1.0);
  Scaling read{.kind = kind_of(rope)};
  if (read.kind == Scaling::Kind::None) return rope.expect("factor", 1.0);
  read.factor = rope.number("factor");
  if (read.kind == Scaling::Kind::Linear && read.factor == 1) return;
  if (read.kind != Scaling::Kind::Linear)
    read.original_positions = rope.integer_or("original_max_position_embeddings", max_positions);
  if (read.kind == Scaling::Kind::Llama3) {
    read.low_frequency_factor = rope.number("low_freq_factor");
    read.high_frequency_factor = rope.number("high_freq_factor");
  }
  if (read.kind == Scaling::Kind::Yarn) {
    read.beta_fast = rope.number_or("beta_fast", 32);
    read.beta_slow = rope.number_or("beta_slow", 1);
    read.truncates = rope.flag("truncate", true);
    read.attention_factor = rope.number_or("attention_factor", 0);
    read.mscale = rope.number_or("mscale", 0);
    read.mscale_all = rope.number_or("mscale_all_dim", 0);
  }
  scaling = read;
}

void read_rotary_width(const ConfigFields& fields, double otherwise, nn::ModelConfig& config) {
  double part = fields.number_or("partial_rotary_factor", otherwise);
  for (const char* section : {"rope_scaling", "rope_parameters"})
    if (fields.has(section)) part = fields.section(section).number_or("partial_rotary_factor", part);
  check(part > 0 && part <= 1, "{}: partial_rotary_factor is {}, expected above 0 to 1", fields.where(), part);
  check(config.head_width > 0 && config.head_width <= nn::ModelLimits::head_width,
        "{}: the width of a head is {}, expected 1 to {}", fields.where(), config.head_width,
        nn::ModelLimits::head_width);
  const double turns = static_cast<double>(config.head_width) * part;
  const auto turned = static_cast<std::int64_t>(turns);  // as transformers cuts it
  check(turned > 0, "{}: partial_rotary_factor is {}, so nothing of a head of {} turns, expected some of it",
        fields.where(), part, config.head_width);
  config.rotary_width = turned == config.head_width ? 0 : turned;
}

double rotary_part(const nn::ModelConfig& config) {
  const auto turned = static_cast<double>(config.turning_width()), width = static_cast<double>(config.head_width);
  double part = turned / width;
  while (std::floor(width * part) < turned) part = std::nextafter(part, 1.0);  // so is it cut again
  return part;
}

Json rope_parameters(double base, const Scaling& scaling) {
  constexpr std::array kinds{"default", "linear", "llama3", "yarn"};
  Json json = {{"rope_type", kinds.at(static_cast<std::size_t>(scaling.kind))}, {"rope_theta", base}};
  if (scaling.kind == Scaling::Kind::None) return json;
  json["factor"] = scaling.factor;
  if (scaling.kind != Scaling::Kind::Linear) json["original_max_position_embeddings"] = scaling.original_positions;
  if (scaling.kind == Scaling::Kind::Llama3) {
    json["low_freq_factor"] = scaling.low_frequency_factor;
    json["high_freq_factor"] = scaling.high_frequency_factor;
  }
  if (scaling.kind == Scaling::Kind::Yarn) {
    json["beta_fast"] = scaling.beta_fast;
    json["beta_slow"] = scaling.beta_slow;
    json["truncate"] = scaling.truncates;
    if (scaling.attention_factor > 0) json["attention_factor"] = scaling.attention_factor;
    if (scaling.mscale > 0) json["mscale"] = scaling.mscale;
    if (scaling.mscale_all > 0) json["mscale_all_dim"] = scaling.mscale_all;
  }
  return json;
}

}  // namespace limbeck::data
