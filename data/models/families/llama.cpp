// Llama 2, 3 and 3.1 to 3.3; Mistral, whose layers may have a window.
#include "data/models/families/families.h"

namespace limbeck::data {
namespace {

void read_llama(const ConfigFields& fields, nn::ModelConfig&) {
  fields.expect("attention_bias", false);
  fields.expect("mlp_bias", false);
  core::check(!fields.has("sliding_window"), "{}: sliding_window is {}, which is not supported: expected null",
              fields.where(), fields.text("sliding_window"));
}

void write_llama(const nn::ModelConfig&, ConfigFields::Json& json) {
  json["attention_bias"] = false;
  json["mlp_bias"] = false;
}

void read_mistral(const ConfigFields& fields, nn::ModelConfig& config) {
  if (!fields.is_null("sliding_window")) config.window = fields.integer_or("sliding_window", 4096);
}

void write_mistral(const nn::ModelConfig& config, ConfigFields::Json& json) {
  json["sliding_window"] = window_of(config);
}

}  // namespace

const Family& llama_family() {
  static const Family family{.name = "Llama",
                             .architecture = "LlamaForCausalLM",
                             .model_type = "llama",
                             .reward_architecture = "LlamaForSequenceClassification",
                             .gguf = "llama",
                             .gguf_interleaves = true,
                             .read = read_llama,
                             .write = write_llama};
  return family;
}

const Family& mistral_family() {
  static const Family family{.name = "Mistral",
                             .architecture = "MistralForCausalLM",
                             .model_type = "mistral",
                             .reward_architecture = "MistralForSequenceClassification",
                             .traits = {.windows = FamilyTraits::Windows::All},
                             .num_kv_heads = 8,
                             .gguf = "llama",
                             .gguf_interleaves = true,
                             .read = read_mistral,
                             .write = write_mistral};
  return family;
}

}  // namespace limbeck::data
