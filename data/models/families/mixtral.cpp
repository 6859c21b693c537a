// Mixtral: experts in every layer, whose weights sum to 1.
#include "data/models/families/families.h"

namespace limbeck::data {
namespace {

void read(const ConfigFields& fields, nn::ModelConfig& config) {
  read_window(fields, config);
  fields.expect("router_jitter_noise", 0.0);
}

void write(const nn::ModelConfig& config, ConfigFields::Json& json) { json["sliding_window"] = window_of(config); }

}  // namespace

const Family& mixtral_family() {
  static const Family family{.name = "Mixtral",
                             .architecture = "MixtralForCausalLM",
                             .model_type = "mixtral",
                             .reward_architecture = "MixtralForSequenceClassification",
                             .traits = {.experts = FamilyTraits::Experts::All, .windows = FamilyTraits::Windows::All},
                             .names = {.experts = "block_sparse_moe", .gate = "w1", .up = "w3", .down = "w2"},
                             .norm_eps = 1e-5,
                             .rope_base = 1e6,
                             .num_kv_heads = 8,
                             .num_experts_field = "num_local_experts",
                             .expert_width_field = "intermediate_size",
                             .gguf = "llama",
                             .gguf_interleaves = true,
                             .gguf_renormalises = true,
                             .read = read,
                             .write = write};
  return family;
}

}  // namespace limbeck::data
