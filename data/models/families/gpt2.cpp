// GPT-2, whose matrices are stored the other way round.
#include "data/models/families/families.h"

namespace limbeck::data {
namespace {

void read(const ConfigFields& fields, nn::ModelConfig&) {
  fields.expect("scale_attn_weights", true);
  fields.expect("scale_attn_by_inverse_layer_idx", false);
  fields.expect("add_cross_attention", false);
}

void write(const nn::ModelConfig&, ConfigFields::Json& json) {
  for (const char* name : {"num_key_value_heads", "head_dim", "rope_theta", "rope_scaling"}) json.erase(name);
}

/// The masks of attention that old files hold.
bool is_mask(std::string_view tensor) {
  return tensor.ends_with(".attn.bias") || tensor.ends_with(".attn.masked_bias");
}

}  // namespace

const Family& gpt2_family() {
  static const Family family{.name = "GPT-2",
                             .architecture = "GPT2LMHeadModel",
                             .model_type = "gpt2",
                             .reward_architecture = "GPT2ForSequenceClassification",
                             .traits = {.attention_bias = true,
                                        .activation = nn::Activation::GeluTanh,
                                        .attention_output_bias = true,
                                        .mlp_bias = true,
                                        .mlp_gate = false,
                                        .norm_kind = nn::NormKind::Layer,
                                        .positions = nn::Positions::Learned,
                                        .has_usual_head_width = true,
                                        .has_grouped_heads = false},
                             .names = {.root = "transformer.",
                                       .embed = "wte",
                                       .position_embed = "wpe",
                                       .layers = "h",
                                       .norm = "ln_f",
                                       .attention = "attn",
                                       .o = "c_proj",
                                       .qkv = "c_attn",
                                       .mlp_up = "c_fc",
                                       .mlp_down = "c_proj",
                                       .is_transposed = true,
                                       .attention_norm = "ln_1",
                                       .mlp_norm = "ln_2"},
                             .fields = {.width = "n_embd",
                                        .num_layers = "n_layer",
                                        .num_heads = "n_head",
                                        .mlp_width = "n_inner",
                                        .max_positions = "n_positions",
                                        .norm_eps = "layer_norm_epsilon"},
                             .norm_eps = 1e-5,
                             .tied_head = true,
                             .mlp_widths = 4,
                             .activation_name = "gelu_new",
                             .may_lack_root = true,
                             .is_ignored = is_mask,
                             .activation_field = "activation_function",
                             .gguf = "gpt2",
                             .gguf_fuses = true,
                             .read = read,
                             .write = write};
  return family;
}

}  // namespace limbeck::data
