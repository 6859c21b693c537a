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
#include <vector>

#include "core/nn/model_config.h"
#include "data/models/families/config_fields.h"

namespace limbeck::data {

/// What a model of a family may be. A model that says otherwise is none of the family.
struct FamilyTraits {
  bool attention_bias = false, may_lack_attention_bias = false;
  bool attention_sinks = false;
  nn::HeadNorm head_norm = nn::HeadNorm::None;
  bool may_lack_head_norm = false;
  nn::NormPlacement norm_placement = nn::NormPlacement::Before;
  double norm_offset = 0;
  nn::Activation activation = nn::Activation::Silu;
  bool attention_output_bias = false, mlp_bias = false, head_bias = false;
  bool mlp_gate = true;
  nn::NormKind norm_kind = nn::NormKind::Rms;
  nn::Positions positions = nn::Positions::Rotary;
  bool may_lack_positions = false;
  bool scales_embedding = false;  // by the root of the width
  bool has_scales = false;        // numbers of config.json: of embedded tokens, of what blocks add, of logits
  bool has_attention_scale = false;
  bool has_latents = false;  // of which queries, keys and values are made

  enum class Experts { None, All, Some };  // which layers have them
  Experts experts = Experts::None;
  bool may_lack_experts = false;                             // in all layers
  bool may_renormalise = true, may_not_renormalise = false;  // the selected weights
  bool has_shared_experts = false;
  bool shared_gate = true;        // they are behind a gate
  bool has_weight_scale = false;  // of the experts' output
  bool leads_with_dense = false;  // the layers without experts are the first ones
  bool has_groups = false;        // of experts, of which a token takes some
  nn::RouterKind router = nn::RouterKind::TopK;
  nn::RouterScores scores = nn::RouterScores::Softmax;
  bool selection_bias = false;
  bool router_bias = false, expert_bias = false;

  enum class Windows { None, All, Some };  // which layers may have one, if there is one
  Windows windows = Windows::None;
  bool has_window_rope = false;  // a rotary base of the layers with a window

  enum class Ropes { Usual, Long };  // frequencies that are scaled otherwise than by LongRoPE, or by it alone
  Ropes ropes = Ropes::Usual;
  bool has_long_scales = false;       // LongRoPE's cos and sin are times numbers of config.json
  bool may_turn_partly = false;       // rotary_width
  bool has_usual_head_width = false;  // that of the model over the heads
  bool has_grouped_heads = true;      // or each head has keys and values of its own

  bool predicts = false;  // may have layers that predict further tokens (num_nextn_predict_layers)

  enum class Mamba { None, All, Some };  // which layers are Mamba-2's; of All nothing is behind them
  Mamba mamba = Mamba::None;
};

/// The parts of tensors' names that differ.
struct FamilyNames {
  std::string root = "model.";  // of all but the head
  const char *embed = "embed_tokens", *position_embed = "", *layers = "layers", *norm = "norm";
  const char *attention = "self_attn", *o = "o_proj", *mlp = "mlp", *mamba = "mamba";
  const char* qkv = "";      // q, k and v as one tensor; "": three
  const char* gate_up = "";  // gate and up as one; "": two
  bool interleaves = false;  // rows of q and k: the channels of a head that turn, its first, lie in pairs, in GGUF too
  const char *mlp_up = "up_proj", *mlp_down = "down_proj";
  bool is_transposed = false;  // matrices of layers are [in, out]
  const char* attention_norm = "input_layernorm";
  const char* mlp_norm = "post_attention_layernorm";
  const char* attention_post_norm = "";
  const char* mlp_post_norm = "";
  const char* experts = "mlp";  // module of router and experts
  const char* shared = "shared_expert";
  const char *gate = "gate_proj", *up = "up_proj", *down = "down_proj";  // matrices of an expert
  const char* router = "gate";
  /// Experts are one tensor a matrix, transposed, and gate and up are one whose columns take turns: gate_up_proj
  /// [E,C,2F] and down_proj [E,F,C], with gate_up_proj_bias [E,2F] and down_proj_bias [E,C] (gpt-oss).
  bool fused_experts = false;
  /// Experts are one tensor a matrix, rows of gate and up one: input_linear [E,2F,C] and output_linear [E,C,F]; the
  /// shared ones are called as feed-forwards of layers without experts (Granite).
  bool joined_experts = false;
};

/// The names of config.json's fields that differ.
struct FamilyFields {
  const char *width = "hidden_size", *num_layers = "num_hidden_layers", *num_heads = "num_attention_heads";
  const char *mlp_width = "intermediate_size", *max_positions = "max_position_embeddings", *norm_eps = "rms_norm_eps";
};

struct Family {
  const char* name;                      // "Qwen3"
  const char* architecture;              // "Qwen3ForCausalLM"
  const char* model_type;                // "qwen3"
  const char* reward_architecture = "";  // "Qwen3ForSequenceClassification", with a reward head; "": there is none
  const char* also = "";                 // models of other names that are of it
  FamilyTraits traits = {};
  FamilyNames names = {};
  FamilyFields fields = {};
  // Where config.json says nothing:
  double norm_eps = 1e-6;
  double rope_base = 10000;
  std::optional<std::int64_t> num_kv_heads = {};  // none: one for each head
  std::optional<std::int64_t> head_width = {};    // none: width / heads
  bool tied_head = false;
  std::int64_t mlp_widths = 0;            // width of a feed-forward over that of the model; 0: it is always said
  const char* activation_name = nullptr;  // of traits.activation; null: the usual
  const char* other_architecture = "";    // that files have too, which their authors' own code reads
  bool may_lack_root = false;             // FamilyNames::root, of all tensors
  bool (*is_ignored)(std::string_view tensor) = nullptr;  // those that say nothing; null: none but inv_freq
  const char* activation_field = "hidden_act";
  const char* num_experts_field = "num_experts";
  const char* expert_width_field = "moe_intermediate_size";
  // In GGUF:
  const char* gguf = "";                       // general.architecture; "": there is none
  bool gguf_fuses = false;                     // q, k and v are one tensor, and gate and up
  bool gguf_fuses_gate = false;                // gate and up alone
  bool gguf_interleaves = false;               // rows of q and k (gguf_names.h)
  bool gguf_says_window = false;               // attention.sliding_window, of all layers that have one
  std::optional<bool> gguf_renormalises = {};  // of mixtures: what the architecture takes for granted
  /// Of layers with a window where not all have one: what the architecture takes for granted. Null: all.
  bool (*gguf_is_full)(std::int64_t layer) = nullptr;
  double gguf_window_rope_base = 0;
  bool gguf_rope_truncates = true;  // YaRN's borders
  double gguf_activation_limit = 0;
  const char* gguf_mlp_norm = "ffn_norm";
  bool gguf_predicts = false;  // files are written with layers that predict further tokens
  double (*gguf_attention_scale)(const nn::ModelConfig& config) = nullptr;  // null: that of the head width

  /// What is the family's own, behind the common fields. Throws for what Limbeck would not compute as meant.
  void (*read)(const ConfigFields& fields, nn::ModelConfig& config) = nullptr;
  void (*write)(const nn::ModelConfig& config, ConfigFields::Json& json) = nullptr;
  /// What a model is beyond the family and its traits do not say, as beyond(). Null: nothing.
  std::optional<std::string> (*beyond)(const nn::ModelConfig& config) = nullptr;
};

/// In the order in which one is looked for that can hold a model.
std::span<const Family* const> families();
/// Throws, naming them all, where there is none of that architecture, be it of models with a reward head.
const Family& family_of(const std::string& architecture, const std::string& where);
/// Likewise of GGUF's general.architecture, of dense models or mixtures, whose scores tell some apart; where a file
/// does not say them, the first.
const Family& family_of_gguf(const std::string& architecture, bool is_mixture, const std::string& where,
                             std::optional<nn::RouterScores> scores = {});
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

/// The model without what a family has no place for though it computes the same: layers that predict further tokens.
nn::ModelConfig in_family(const Family& family, nn::ModelConfig config);

/// As config.json calls it where a family says nothing else.
const char* usual_name(nn::Activation activation);
/// Numbers of attention of a model without it, which are without meaning, and as many positions as are never reached.
void set_no_attention(nn::ModelConfig& config);
/// What all models of a family have alike.
void set_traits(const FamilyTraits& traits, nn::ModelConfig& config);
/// The architecture that config.json describes.
nn::ModelConfig read_config(const Family& family, const ConfigFields& fields);
/// Its fields of the architecture alone.
ConfigFields::Json write_config(const Family& family, const nn::ModelConfig& config);

// For families' own files.

/// A layer's list in config.json, "TYPE" of each layer, or nothing where there is none; throws where it is of another
/// length.
std::vector<std::string> read_layer_types(const ConfigFields& fields, const char* name, std::int64_t num_layers);
/// The sizes of Mamba-2's layers: mamba_n_heads and the others that start alike, and time_step_limit.
void read_mamba(const ConfigFields& fields, nn::ModelConfig& config);
void write_mamba(const nn::ModelConfig& config, ConfigFields::Json& json);
/// time_step_limit, of which transformers 4 writes infinity as no JSON has it, and 5 as {"__float__": "Infinity"}.
void read_step_limits(const ConfigFields& fields, nn::MambaConfig& mamba);
ConfigFields::Json step_limits(const nn::MambaConfig& mamba);
/// As beyond(), of the inner width, which all of them take for a multiple of the model's.
std::optional<std::string> beyond_mamba(const nn::ModelConfig& config);
/// sliding_window of all layers, where there is one.
inline void read_window(const ConfigFields& fields, nn::ModelConfig& config) {
  if (fields.has("sliding_window")) config.window = fields.integer("sliding_window");
}
/// sliding_window: null where there is none.
inline ConfigFields::Json window_of(const nn::ModelConfig& config) {
  return config.window > 0 ? ConfigFields::Json(config.window) : ConfigFields::Json();
}
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
  if (static_cast<std::int64_t>(config.full_layers.size()) == config.num_layers) {
    config.full_layers.clear();
    return;
  }
  config.window = fields.integer("sliding_window");
  core::check(config.window > 0, "{}: sliding_window is {}, expected 1 or more: some layers have a window",
              fields.where(), config.window);
}
/// "full_attention" or "sliding_attention" of each layer.
ConfigFields::Json layer_types(const nn::ModelConfig& config);
/// intermediate_size, of layers that are dense; above 0 also where none is.
void read_dense_width(const ConfigFields& fields, nn::ModelConfig& config);
/// The layers that stay dense where each `sparse_step`-th has experts and `dense` are named; their width is mlp_width.
void read_dense_layers(const ConfigFields& fields, nn::ModelConfig& config);
/// The rotary base and its scaling of an object such as rope_parameters or rope_scaling. Its partial_rotary_factor is 1
/// unless a part of a head may turn.
void read_rope(const ConfigFields& fields, double& base, nn::RopeScaling& scaling, std::int64_t max_positions,
               bool may_turn_partly = false);
/// How much of a head turns: partial_rotary_factor, at the top (transformers 4) or in rope_parameters (5).
void read_rotary_width(const ConfigFields& fields, double otherwise, nn::ModelConfig& config);
/// partial_rotary_factor, of which the same channels are read.
double rotary_part(const nn::ModelConfig& config);
/// rope_parameters of one kind of layers.
ConfigFields::Json rope_parameters(double base, const nn::RopeScaling& scaling);

}  // namespace limbeck::data
