// Mamba-2, of layers that are nothing but its mixers; and Bamba, some of whose layers have attention instead, of whose
// heads a half turns, and all of them feed-forwards.
#include <algorithm>

#include "data/models/families/families.h"

namespace limbeck::data {

using Json = ConfigFields::Json;

void read_step_limits(const ConfigFields& fields, nn::MambaConfig& mamba) {
  if (!fields.has("time_step_limit")) return;
  const Json& limits = fields.json()["time_step_limit"];
  const Json infinity = {{"__float__", "Infinity"}};
  core::check(limits.is_array() && limits.size() == 2 && limits[0].is_number() &&
                  (limits[1].is_number() || limits[1] == infinity),
              "{}: time_step_limit is {}, expected two numbers", fields.where(), limits.dump());
  mamba.least_step = limits[0].get<double>();
  mamba.most_step = limits[1].is_number() ? limits[1].get<double>() : 0;
  core::check(!limits[1].is_number() || mamba.most_step > 0, "{}: time_step_limit is {}, expected above 0 at its end",
              fields.where(), limits.dump());
}

Json step_limits(const nn::MambaConfig& mamba) {
  return Json::array(
      {Json(mamba.least_step), mamba.most_step > 0 ? Json(mamba.most_step) : Json{{"__float__", "Infinity"}}});
}

std::vector<std::string> read_layer_types(const ConfigFields& fields, const char* name, std::int64_t num_layers) {
  if (!fields.has(name)) return {};
  const Json& types = fields.json()[name];
  const bool are_names = types.is_array() && std::ranges::all_of(types, [](const Json& t) { return t.is_string(); });
  core::check(are_names && static_cast<std::int64_t>(types.size()) == num_layers,
              "{}: {} is {}, expected a name for each of {} layers", fields.where(), name, types.dump(), num_layers);
  return types.get<std::vector<std::string>>();
}

void read_mamba(const ConfigFields& fields, nn::ModelConfig& config) {
  nn::MambaConfig& mamba = config.mamba;
  fields.expect("mamba_proj_bias", false);
  mamba.num_heads = fields.integer("mamba_n_heads");
  const std::int64_t expand = fields.integer_or("mamba_expand", 2);
  core::check(mamba.num_heads > 0 && expand > 0 && expand <= nn::ModelLimits::head_width &&
                  config.width <= nn::ModelLimits::width && expand * config.width % mamba.num_heads == 0,
              "{}: mamba_n_heads and mamba_expand are {} and {}, expected such as divide and multiply {}",
              fields.where(), mamba.num_heads, expand, config.width);
  const std::int64_t width = expand * config.width / mamba.num_heads;
  const bool is_said = fields.has("mamba_d_head") && fields.json()["mamba_d_head"] != "auto";
  mamba.head_width = is_said ? fields.integer("mamba_d_head") : width;
  core::check(mamba.head_width == width,
              "{}: mamba_d_head is {}, expected mamba_expand * hidden_size / mamba_n_heads = {}", fields.where(),
              mamba.head_width, width);
  mamba.state_width = fields.integer("mamba_d_state");
  mamba.num_groups = fields.integer_or("mamba_n_groups", 1);
  mamba.conv_width = fields.integer_or("mamba_d_conv", 4);
  mamba.conv_bias = fields.flag("mamba_conv_bias", true);
  read_step_limits(fields, mamba);
}

void write_mamba(const nn::ModelConfig& config, Json& json) {
  const nn::MambaConfig& mamba = config.mamba;
  json["mamba_n_heads"] = mamba.num_heads;
  json["mamba_d_head"] = mamba.head_width;
  json["mamba_expand"] = mamba.inner_width() / config.width;
  json["mamba_d_state"] = mamba.state_width;
  json["mamba_n_groups"] = mamba.num_groups;
  json["mamba_d_conv"] = mamba.conv_width;
  json["mamba_conv_bias"] = mamba.conv_bias;
  json["mamba_proj_bias"] = false;
  json["mamba_chunk_size"] = 256;
  json["time_step_limit"] = step_limits(mamba);
}

std::optional<std::string> beyond_mamba(const nn::ModelConfig& config) {
  if (config.mamba.inner_width() % config.width == 0) return std::nullopt;
  return fmt::format("mamba.num_heads times head_width is {}, expected a multiple of width = {}",
                     config.mamba.inner_width(), config.width);
}

namespace {

void read_mamba2(const ConfigFields& fields, nn::ModelConfig& config) {
  nn::MambaConfig& mamba = config.mamba;
  fields.expect("use_bias", false);
  mamba.num_heads = fields.integer("num_heads");
  mamba.head_width = fields.integer("head_dim");
  mamba.state_width = fields.integer("state_size");
  mamba.num_groups = fields.integer_or("n_groups", 8);
  mamba.conv_width = fields.integer_or("conv_kernel", 4);
  mamba.conv_bias = fields.flag("use_conv_bias", true);
  read_step_limits(fields, mamba);
  nn::validate(config, fields.where());  // of which products are made below
  const std::int64_t expand = fields.integer_or("expand", 2);
  core::check(expand > 0 && mamba.inner_width() / config.width == expand && mamba.inner_width() % config.width == 0,
              "{}: num_heads and head_dim are {} and {}, expected a product of expand * hidden_size = {} * {}",
              fields.where(), mamba.num_heads, mamba.head_width, expand, config.width);
}

void write_mamba2(const nn::ModelConfig& config, Json& json) {
  const nn::MambaConfig& mamba = config.mamba;
  for (const char* name : {"intermediate_size", "num_attention_heads", "num_key_value_heads", "max_position_embeddings",
                           "rope_theta", "rope_scaling"})
    json.erase(name);
  json["num_heads"] = mamba.num_heads;
  json["head_dim"] = mamba.head_width;
  json["expand"] = mamba.inner_width() / config.width;
  json["state_size"] = mamba.state_width;
  json["n_groups"] = mamba.num_groups;
  json["conv_kernel"] = mamba.conv_width;
  json["use_conv_bias"] = mamba.conv_bias;
  json["use_bias"] = false;
  json["time_step_limit"] = step_limits(mamba);
}

void read_bamba(const ConfigFields& fields, nn::ModelConfig& config) {
  fields.expect("attention_bias", false);
  fields.expect("mlp_bias", false);
  read_rotary_width(fields, 0.5, config);
  read_mamba(fields, config);
  if (!fields.has("attn_layer_indices")) return;
  const Json& layers = fields.json()["attn_layer_indices"];
  const auto is_layer = [&](const Json& layer) { return layer.is_number_integer(); };
  core::check(layers.is_array() && std::ranges::all_of(layers, is_layer),
              "{}: attn_layer_indices is {}, expected a list of layers", fields.where(), layers.dump());
  config.mamba.attention_layers = layers.get<std::vector<std::int64_t>>();
  std::ranges::sort(config.mamba.attention_layers);
}

void write_bamba(const nn::ModelConfig& config, Json& json) {
  write_mamba(config, json);
  json.erase("head_dim");
  json["attention_bias"] = json["mlp_bias"] = false;
  json["partial_rotary_factor"] = 0.5;
  json["attn_layer_indices"] = config.mamba.attention_layers;
}

std::optional<std::string> beyond_bamba(const nn::ModelConfig& config) {
  if (config.has_attention() && 2 * config.turning_width() != config.head_width)
    return fmt::format("rotary_width is {}, expected half of head_width = {}", config.rotary_width, config.head_width);
  return beyond_mamba(config);
}

}  // namespace

const Family& mamba2_family() {
  static const Family family{.name = "Mamba-2",
                             .architecture = "Mamba2ForCausalLM",
                             .model_type = "mamba2",
                             .traits = {.mamba = FamilyTraits::Mamba::All},
                             .names = {.root = "backbone.",
                                       .embed = "embeddings",
                                       .norm = "norm_f",
                                       .mamba = "mixer",
                                       .attention_norm = "norm"},
                             .fields = {.norm_eps = "layer_norm_epsilon"},
                             .norm_eps = 1e-5,
                             .gguf = "mamba2",
                             .read = read_mamba2,
                             .write = write_mamba2,
                             .beyond = beyond_mamba};
  return family;
}

const Family& bamba_family() {
  static const Family family{
      .name = "Bamba",
      .architecture = "BambaForCausalLM",
      .model_type = "bamba",
      .traits = {.may_turn_partly = true, .has_usual_head_width = true, .mamba = FamilyTraits::Mamba::Some},
      .names = {.norm = "final_layernorm", .mlp = "feed_forward", .mlp_norm = "pre_ff_layernorm"},
      .norm_eps = 1e-5,
      .num_kv_heads = 8,
      .gguf = "granitehybrid",
      .gguf_interleaves = true,
      .read = read_bamba,
      .write = write_bamba,
      .beyond = beyond_bamba};
  return family;
}

}  // namespace limbeck::data
