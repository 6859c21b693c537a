#include "data/models/hugging_face_config.h"

#include <nlohmann/json.hpp>

#include "core/error.h"
#include "data/files/atomic_file.h"
#include "data/files/json_text.h"
#include "data/models/families/family.h"

namespace limbeck::data {

using core::check;
using Json = ConfigFields::Json;
namespace fs = std::filesystem;

namespace {

constexpr const char* quantization = "quantization_config";

std::string path_in(const fs::path& folder) { return (folder / "config.json").string(); }
std::string text_of(const fs::path& folder) { return read_text_file(path_in(folder), 1U << 24U); }

/// transformers 4 writes infinity as no JSON has it, 5 as an object.
std::string with_infinity_as_object(const std::string& text) {
  constexpr std::string_view infinity = "Infinity";
  std::string result;
  bool in_string = false;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '"') in_string = !in_string;
    if (in_string && text[i] == '\\' && i + 1 < text.size()) result += text[i++];
    if (!in_string && std::string_view(text).substr(i).starts_with(infinity)) {
      result += R"({"__float__": "Infinity"})";
      i += infinity.size() - 1;
    } else {
      result += text[i];
    }
  }
  return result;
}

ConfigFields fields_of(const std::string& text, const std::string& where) {
  return {parse_json<Json>(with_infinity_as_object(text), where), where};
}

}  // namespace

std::optional<std::int64_t> read_bos_token(const fs::path& folder, std::int64_t vocabulary) {
  const ConfigFields fields = fields_of(text_of(folder), path_in(folder));
  const Json bos = fields.json().value("bos_token_id", Json());
  if (!bos.is_number_integer() || bos < 0 || bos >= vocabulary) return std::nullopt;
  return bos.get<std::int64_t>();
}

HuggingFaceConfig read_hugging_face_config(const fs::path& folder) {
  return parse_hugging_face_config(text_of(folder), path_in(folder));
}

HuggingFaceConfig parse_hugging_face_config(const std::string& text, const std::string& where) {
  const ConfigFields fields = fields_of(text, where);
  const Json architectures = fields.json().value("architectures", Json::array());
  const std::string architecture = architectures.is_array() && architectures.size() == 1 && architectures[0].is_string()
                                       ? architectures[0].get<std::string>()
                                       : fields.text("architectures");
  const Family& family = family_of(architecture, fields.where());
  const bool judges = architecture == family.reward_architecture;
  const nn::ModelConfig model =
      judges ? nn::with_reward_head(read_config(family, fields)) : read_config(family, fields);
  if (const auto reason = beyond(family, model)) core::fail("{}: {} ({})", where, *reason, family.name);
  return {&family, model, fields.has(quantization) ? std::optional(fields.section(quantization)) : std::nullopt};
}

std::string hugging_face_config(const nn::ModelConfig& config, const HuggingFaceExport& options) {
  const Family& family = family_for(config, "Hugging Face export");
  const bool is_mxfp4 = options.dtype == core::DType::MXFP4;
  check(options.dtype == core::DType::F32 || options.dtype == core::DType::BF16 || is_mxfp4,
        "Hugging Face export: dtype is {}, expected float32, bfloat16 or MXFP4", options.dtype);
  check(!is_mxfp4 || family.names.fused_experts,
        "Hugging Face export: dtype is {}, which is of gpt-oss alone, expected float32 or bfloat16 for {}",
        options.dtype, family.name);
  const auto& eos = options.eos_tokens;
  Json json = write_config(family, config);
  if (config.reward_head) {
    json["architectures"] = {family.reward_architecture};
    json["id2label"] = {{"0", "reward"}};  // of which transformers counts one
    json["label2id"] = {{"reward", 0}};
    json["problem_type"] = "regression";
    json["pad_token_id"] = options.padding_token ? Json(*options.padding_token) : Json(nullptr);
  }
  json["attention_dropout"] = 0.0;
  json["bos_token_id"] = options.bos_token ? Json(*options.bos_token) : Json(nullptr);
  json["eos_token_id"] = eos.empty() ? Json(nullptr) : eos.size() == 1 ? Json(eos.front()) : Json(eos);
  json["torch_dtype"] = core::name_of(is_mxfp4 ? core::DType::BF16 : options.dtype);
  if (is_mxfp4)  // as the published models have it
    json[quantization] = {{"quant_method", "mxfp4"},
                          {"modules_to_not_convert",
                           {"model.layers.*.self_attn", "model.layers.*.mlp.router", "model.embed_tokens", "lm_head"}}};
  json["use_cache"] = true;
  return json.dump(2) + "\n";
}

}  // namespace limbeck::data
