#include "data/models/hugging_face_config.h"

#include <nlohmann/json.hpp>

#include "core/error.h"
#include "data/files/atomic_file.h"
#include "data/files/json_text.h"
#include "data/models/llama_shape.h"

namespace limbeck::data {

using core::check;
using core::fail;
using Json = nlohmann::ordered_json;
namespace fs = std::filesystem;

namespace {

/// The fields of one config.json, each read with its name in the message.
class Fields {
 public:
  Fields(Json json, std::string where) : json_(std::move(json)), where_(std::move(where)) {
    check(json_.is_object(), "{}: is {}, expected an object", where_, json_.type_name());
  }

  bool has(const char* name) const { return json_.contains(name) && !json_[name].is_null(); }
  bool is_null(const char* name) const { return json_.contains(name) && json_[name].is_null(); }
  std::string text(const char* name) const { return has(name) ? json_[name].dump() : "absent"; }

  std::int64_t integer(const char* name) const {
    check(has(name) && json_[name].is_number_integer(), "{}: {} is {}, expected a whole number", where_, name,
          text(name));
    return json_[name].get<std::int64_t>();
  }
  std::int64_t integer_or(const char* name, std::int64_t otherwise) const {
    return has(name) ? integer(name) : otherwise;
  }
  double number_or(const char* name, double otherwise) const {
    check(!has(name) || json_[name].is_number(), "{}: {} is {}, expected a number", where_, name, text(name));
    return has(name) ? json_[name].get<double>() : otherwise;
  }
  bool flag(const char* name) const {  // absent is false
    check(!has(name) || json_[name].is_boolean(), "{}: {} is {}, expected true or false", where_, name, text(name));
    return has(name) && json_[name].get<bool>();
  }
  /// Throws unless the field is absent, null, or the one value that Limbeck computes.
  void expect(const char* name, const Json& only) const {
    check(!has(name) || json_[name] == only, "{}: {} is {}, which is not supported: expected {}", where_, name,
          text(name), only.dump());
  }
  const Json& json() const { return json_; }
  const std::string& where() const { return where_; }

 private:
  Json json_;
  std::string where_;
};

Fields fields_of(const fs::path& folder) {
  const std::string where = (folder / "config.json").string();
  return {parse_json<Json>(read_text_file(where, 1U << 24U), where), where};
}

/// Throws unless the frequencies are as they would be without scaling: by a factor of 1 nothing is scaled.
void check_rope_scaling(const Json& rope, const std::string& where) {
  const Fields fields(rope, where);
  const double factor = fields.number_or("factor", 1.0);
  for (const char* key : {"rope_type", "type"}) {
    if (!rope.contains(key)) continue;
    const bool is_plain = rope[key] == "default";
    const bool is_by_factor = rope[key] == "linear" || rope[key] == "llama3";
    check(is_plain || (is_by_factor && rope.contains("factor")),
          "{} is {}, which is not supported: expected {} default", where, rope.dump(), key);
  }
  check(factor == 1.0, "{} is {}, which is not supported: expected no factor other than 1", where, rope.dump());
  fields.expect("partial_rotary_factor", 1.0);
}

/// The RoPE base: `rope_theta` at the top (transformers 4) or in `rope_parameters` (5). Scaled RoPE is refused.
double rope_base(const Fields& fields, double otherwise) {
  otherwise = fields.number_or("rope_theta", otherwise);
  for (const char* name : {"rope_scaling", "rope_parameters"}) {
    if (!fields.has(name)) continue;
    const Json& rope = fields.json()[name];
    const std::string where = fmt::format("{}: {}", fields.where(), name);
    check(rope.is_object(), "{} is {}, expected an object", where, rope.dump());
    check_rope_scaling(rope, where);
    otherwise = Fields(rope, where).number_or("rope_theta", otherwise);
  }
  return otherwise;
}

}  // namespace

std::optional<std::int64_t> read_bos_token(const fs::path& folder, std::int64_t vocabulary) {
  const Fields fields = fields_of(folder);
  const Json bos = fields.json().value("bos_token_id", Json());
  if (!bos.is_number_integer() || bos < 0 || bos >= vocabulary) return std::nullopt;
  return bos.get<std::int64_t>();
}

nn::ModelConfig read_hugging_face_config(const fs::path& folder) {
  const Fields fields = fields_of(folder);
  const std::string& where = fields.where();
  const Json architectures = fields.json().value("architectures", Json::array());
  const std::string architecture = architectures.is_array() && architectures.size() == 1 && architectures[0].is_string()
                                       ? architectures[0].get<std::string>()
                                       : fields.text("architectures");
  const bool is_mixtral = architecture == "MixtralForCausalLM";
  const bool is_mistral = architecture == "MistralForCausalLM";
  check(is_mixtral || is_mistral || architecture == "LlamaForCausalLM",
        "{}: architectures is {}, expected LlamaForCausalLM, MistralForCausalLM or MixtralForCausalLM", where,
        architecture);
  fields.expect("hidden_act", "silu");
  fields.expect("attention_bias", false);
  fields.expect("mlp_bias", false);
  fields.expect("partial_rotary_factor", 1.0);
  fields.expect("quantization_config", nullptr);
  check(!fields.has("sliding_window"), "{}: sliding_window is {}, which is not supported: expected null", where,
        fields.text("sliding_window"));
  check(!is_mistral || fields.is_null("sliding_window"),
        "{}: sliding_window is absent, which means 4096 and is not supported: expected null", where);

  nn::ModelConfig config;
  config.vocabulary = fields.integer("vocab_size");
  config.width = fields.integer("hidden_size");
  config.num_layers = fields.integer("num_hidden_layers");
  config.num_heads = fields.integer("num_attention_heads");
  // What is absent is what transformers takes then; null is one for each head everywhere.
  const bool has_own_default = (is_mistral || is_mixtral) && !fields.is_null("num_key_value_heads");
  config.num_kv_heads = fields.integer_or("num_key_value_heads", has_own_default ? 8 : config.num_heads);
  config.max_positions = fields.integer("max_position_embeddings");
  check(config.num_heads > 0, "{}: num_attention_heads is {}, expected a positive number", where, config.num_heads);
  check(fields.has("head_dim") || config.width % config.num_heads == 0,
        "{}: hidden_size is {}, expected a multiple of num_attention_heads = {} (there is no head_dim)", where,
        config.width, config.num_heads);
  config.head_width = fields.integer_or("head_dim", config.width / config.num_heads);
  config.norm_eps = fields.number_or("rms_norm_eps", is_mixtral ? 1e-5 : 1e-6);
  config.rope_base = rope_base(fields, is_mixtral ? 1e6 : 1e4);
  config.tied_head = fields.flag("tie_word_embeddings");
  if (is_mixtral) {
    config.moe.num_experts = fields.integer("num_local_experts");
    config.moe.experts_per_token = fields.integer("num_experts_per_tok");
    config.moe.expert_width = fields.integer("intermediate_size");
    check(config.moe.num_experts > 0, "{}: num_local_experts is {}, expected a positive number", where,
          config.moe.num_experts);
  } else {
    config.mlp_width = fields.integer("intermediate_size");
  }
  nn::validate(config, where);
  return config;
}

std::string hugging_face_config(const nn::ModelConfig& config, const HuggingFaceExport& options) {
  const bool is_moe = has_experts_as_mixtral(config, "Hugging Face export");
  check(options.dtype == core::DType::F32 || options.dtype == core::DType::BF16,
        "Hugging Face export: dtype is {}, expected float32 or bfloat16", options.dtype);
  const auto& eos = options.eos_tokens;
  Json json = {{"architectures", {is_moe ? "MixtralForCausalLM" : "LlamaForCausalLM"}},
               {"model_type", is_moe ? "mixtral" : "llama"},
               {"vocab_size", config.vocabulary},
               {"hidden_size", config.width},
               {"intermediate_size", is_moe ? config.moe.expert_width : config.mlp_width},
               {"num_hidden_layers", config.num_layers},
               {"num_attention_heads", config.num_heads},
               {"num_key_value_heads", config.num_kv_heads},
               {"head_dim", config.head_width},
               {"hidden_act", "silu"},
               {"max_position_embeddings", config.max_positions},
               {"rms_norm_eps", config.norm_eps},
               {"rope_theta", config.rope_base},
               {"rope_scaling", nullptr},
               {"tie_word_embeddings", config.tied_head},
               {"attention_bias", false},
               {"attention_dropout", 0.0},
               {"bos_token_id", options.bos_token ? Json(*options.bos_token) : Json(nullptr)},
               {"eos_token_id", eos.empty()       ? Json(nullptr)
                                : eos.size() == 1 ? Json(eos.front())
                                                  : Json(eos)},
               {"torch_dtype", core::name_of(options.dtype)},
               {"use_cache", true}};
  if (is_moe) {
    json["num_local_experts"] = config.moe.num_experts;
    json["num_experts_per_tok"] = config.moe.experts_per_token;
    json["sliding_window"] = nullptr;
  } else {
    json["mlp_bias"] = false;
  }
  return json.dump(2) + "\n";
}

}  // namespace limbeck::data
