// Families of models, as Hugging Face's config.json names them: what their models are, what they are called there, and
// where their tensors are. A file each, families/NAME.cpp, says what is a family's own; the rest is common.
//
//     const Family& family = family_of("Qwen3ForCausalLM", where);
//     const nn::ModelConfig config = read_config(family, fields);
//     const Family& other = family_for(student.config(), "Hugging Face export");      // the first that can hold it
#pragma once

#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "core/nn/model_config.h"
#include "data/models/families/config_fields.h"

namespace limbeck::data {

/// What a model of a family may be. A model that says otherwise is none of the family.
struct FamilyTraits {
  bool attention_bias = false;
  bool attention_sinks = false;
  nn::HeadNorm head_norm = nn::HeadNorm::None;
  nn::NormPlacement norm_placement = nn::NormPlacement::Before;
  double norm_offset = 0;
  nn::Activation activation = nn::Activation::Silu;
  bool attention_output_bias = false, mlp_bias = false, head_bias = false;
  bool mlp_gate = true;
  nn::NormKind norm_kind = nn::NormKind::Rms;
  nn::Positions positions = nn::Positions::Rotary;
  bool scales_embedding = false;  // by the root of the width
  bool has_attention_scale = false;

  enum class Experts { None, All, Some };  // which layers have them
  Experts experts = Experts::None;
  bool may_renormalise = true, may_not_renormalise = false;  // the selected weights
  bool has_shared_experts = false;                           // behind a gate
  bool router_bias = false, expert_bias = false;

  enum class Windows { None, All, Some };  // which layers may have one, if there is one
  Windows windows = Windows::None;
  bool has_window_rope = false;  // a rotary base of the layers with a window
};

/// The parts of tensors' names that differ.
struct FamilyNames {
  const char* attention_norm = "input_layernorm";
  const char* mlp_norm = "post_attention_layernorm";
  const char* attention_post_norm = "";
  const char* mlp_post_norm = "";
  const char* experts = "mlp";                                           // module of router and experts
  const char *gate = "gate_proj", *up = "up_proj", *down = "down_proj";  // matrices of an expert
  const char* router = "gate";
  /// Experts are one tensor a matrix, transposed, and gate and up are one whose columns take turns: gate_up_proj
  /// [E,C,2F] and down_proj [E,F,C], with gate_up_proj_bias [E,2F] and down_proj_bias [E,C] (gpt-oss).
  bool fused_experts = false;
};

struct Family {
  const char* name;          // "Qwen3"
  const char* architecture;  // "Qwen3ForCausalLM"
  const char* model_type;    // "qwen3"
  FamilyTraits traits = {};
  FamilyNames names = {};
  // Where config.json says nothing:
  double norm_eps = 1e-6;
  double rope_base = 10000;
  std::optional<std::int64_t> num_kv_heads = {};  // none: one for each head
  std::optional<std::int64_t> head_width = {};    // none: width / heads
  bool tied_head = false;
  const char* activation_field = "hidden_act";
  const char* activation_name = nullptr;  // what config.json calls it, where not as others do
  const char* num_experts_field = "num_experts";
  const char* expert_width_field = "moe_intermediate_size";
  // In GGUF:
  const char* gguf = "";                       // general.architecture
  bool gguf_interleaves = false;               // rows of q and k (gguf_names.h)
  bool gguf_says_window = false;               // attention.sliding_window, of all layers that have one
  std::optional<bool> gguf_renormalises = {};  // of mixtures: what the architecture takes for granted
  /// Of layers with a window where not all have one: what the architecture takes for granted. Null: all.
  bool (*gguf_is_full)(std::int64_t layer) = nullptr;
  double gguf_window_rope_base = 0;
  bool gguf_rope_truncates = true;  // YaRN's borders
  double gguf_activation_limit = 0;
  const char* gguf_mlp_norm = "ffn_norm";
  double (*gguf_attention_scale)(const nn::ModelConfig& config) = nullptr;  // null: that of the head width

  /// What is the family's own, behind the common fields. Throws for what Limbeck would not compute as meant.
  void (*read)(const ConfigFields& fields, nn::ModelConfig& config) = nullptr;
  void (*write)(const nn::ModelConfig& config, ConfigFields::Json& json) = nullptr;
};

/// In the order in which one is looked for that can hold a model.
std::span<const Family* const> families();
/// Throws, naming them all, where there is none of that architecture.
const Family& family_of(const std::string& architecture, const std::string& where);
/// Likewise of GGUF's general.architecture, of dense models or mixtures.
const Family& family_of_gguf(const std::string& architecture, bool is_mixture, const std::string& where);
/// The first thing of a model that the family does not have, as "FIELD is X, expected Y"; nothing where it has all.
std::optional<std::string> beyond(const Family& family, const nn::ModelConfig& config);
/// The same of the family in GGUF, which says less.
std::optional<std::string> beyond_gguf(const Family& family, const nn::ModelConfig& config);

/// As beyond() and beyond_gguf().
using BeyondFormat = std::optional<std::string> (*)(const Family& family, const nn::ModelConfig& config);
/// What no family has in a format, of that which comes nearest.
std::optional<std::string> beyond_all_families(const nn::ModelConfig& config, BeyondFormat format = beyond);
/// The first that can hold the model. Throws, in one line that begins with `what`, where none can.
const Family& family_for(const nn::ModelConfig& config, std::string_view what, BeyondFormat format = beyond);

/// What all models of a family have alike.
void set_traits(const FamilyTraits& traits, nn::ModelConfig& config);
/// The architecture that config.json describes.
nn::ModelConfig read_config(const Family& family, const ConfigFields& fields);
/// Its fields of the architecture alone.
ConfigFields::Json write_config(const Family& family, const nn::ModelConfig& config);

// For families' own files.

/// Layers with a window, by `layer_types` or else by is_full(layer): sliding_window is read.
template <class F>
void read_windows(const ConfigFields& fields, nn::ModelConfig& config, F&& is_full) {
  const auto& types = fields.json().contains("layer_types") ? fields.json()["layer_types"] : ConfigFields::Json();
  core::check(types.is_null() || (types.is_array() && static_cast<std::int64_t>(types.size()) == config.num_layers),
              "{}: layer_types is {}, expected one for each of {} layers", fields.where(), types.dump(),
              config.num_layers);
  for (std::int64_t layer = 0; layer < config.num_layers; ++layer) {
    bool full = is_full(layer);
    if (!types.is_null()) {
      const auto& type = types[static_cast<std::size_t>(layer)];
      full = type == "full_attention";
      core::check(full || type == "sliding_attention",
                  "{}: layer_types has {} for layer {}, expected full_attention or sliding_attention", fields.where(),
                  type.dump(), layer);
    }
    if (full) config.full_layers.push_back(layer);
  }
  if (static_cast<std::int64_t>(config.full_layers.size()) < config.num_layers)
    config.window = fields.integer("sliding_window");
  else
    config.full_layers.clear();
}
/// "full_attention" or "sliding_attention" of each layer.
ConfigFields::Json layer_types(const nn::ModelConfig& config);
/// The layers that stay dense where each `sparse_step`-th has experts and `dense` are named; their width is mlp_width.
void read_dense_layers(const ConfigFields& fields, nn::ModelConfig& config);
/// The rotary base and its scaling of an object such as rope_parameters or rope_scaling.
void read_rope(const ConfigFields& fields, double& base, nn::RopeScaling& scaling, std::int64_t max_positions);
/// rope_parameters of one kind of layers.
ConfigFields::Json rope_parameters(double base, const nn::RopeScaling& scaling);

}  // namespace limbeck::data
