#include "data/tokenizers/tokenizer_folder.h"

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>
#include <set>

#include "data/files/atomic_file.h"
#include "data/files/json_at.h"
#include "data/files/json_text.h"
#include "data/tokenizers/unicode.h"

namespace limbeck::data {

using Json = nlohmann::ordered_json;
namespace fs = std::filesystem;

namespace {

constexpr std::uintmax_t max_file_bytes = std::uintmax_t{1} << 27U;

/// An object; an empty one where there is no file.
Json read_object(const fs::path& path) {
  if (!fs::exists(path)) return Json::object();
  Json json = parse_json<Json>(read_text_file(path, max_file_bytes), path.string());
  core::check(json.is_object(), "{}: is {}, expected an object", path.string(), json.type_name());
  return json;
}

bool has(const Json& config, const char* field) { return config.contains(field) && !config[field].is_null(); }

/// The names of special tokens: a text, an object with one as "content", or a list of these.
void collect_names(const Json& value, std::set<std::string>& names) {
  if (value.is_string()) names.insert(value.get<std::string>());
  if (value.is_object() && value.contains("content")) collect_names(value["content"], names);
  if (value.is_array())
    for (const auto& item : value) collect_names(item, names);
}

constexpr std::array special_fields = {"bos_token", "eos_token", "unk_token",  "sep_token",
                                       "pad_token", "cls_token", "mask_token", "additional_special_tokens"};

/// added_tokens.json, a map from text to id, in the form of added_tokens_decoder (transformers 4.34).
Json decoder_of(const Json& ids, const Json& config, const std::string& where) {
  std::set<std::string> special;
  for (const char* field : special_fields)
    if (has(config, field)) collect_names(config[field], special);
  Json decoder = Json::object();
  for (const auto& [text, id] : ids.items()) {
    core::check(id.is_number_unsigned(), "{}: {} is {}, expected a token's id", where, text, id.dump());
    const bool is_special = special.contains(text);
    decoder[id.dump()] = {{"content", text}, {"lstrip", false},      {"normalized", !is_special},
                          {"rstrip", false}, {"single_word", false}, {"special", is_special}};
  }
  return decoder;
}

Json read_config(const fs::path& folder, bool& is_changed) {
  Json config = read_object(folder / "tokenizer_config.json");
  const auto take = [&](const char* field, Json value) {
    config[field] = std::move(value);
    is_changed = true;
  };
  const fs::path chat = folder / "chat_template.jinja";
  if (fs::exists(chat))  // goes before what the config says, as in transformers
    if (const std::string text = read_text_file(chat, max_file_bytes); valid_utf8_prefix(text) == text.size())
      if (!config.contains("chat_template") || config["chat_template"] != text) take("chat_template", text);
  const Json map = read_object(folder / "special_tokens_map.json");
  for (const char* field : special_fields)
    if (has(map, field) && !has(config, field)) take(field, map[field]);
  const fs::path added = folder / "added_tokens.json";
  if (!has(config, "added_tokens_decoder") && fs::exists(added))
    take("added_tokens_decoder", decoder_of(read_object(added), config, added.string()));
  return config;
}

}  // namespace

std::string read_tokenizer_config(const fs::path& folder) {
  bool is_changed = false;
  const Json config = read_config(folder, is_changed);
  if (is_changed) return config.dump(2);
  const fs::path path = folder / "tokenizer_config.json";
  return fs::exists(path) ? read_text_file(path, max_file_bytes) : "";
}

std::string read_tokenizer_config_with_added_tokens(const fs::path& folder) {
  bool is_changed = false;
  Json config = read_config(folder, is_changed);
  const fs::path path = folder / "tokenizer.json";
  if (!fs::exists(path)) return config.dump();
  const std::string text = read_text_file(path, max_file_bytes);
  if (!Json::accept(text)) return config.dump();  // whoever reads it says so
  const auto document = parse_json<nlohmann::json>(text, path.string());
  const JsonAt tokens = JsonAt(document, path.string()).get("added_tokens");
  if (tokens.is_null()) return config.dump();
  if (!has(config, "added_tokens_decoder")) config["added_tokens_decoder"] = Json::object();
  for (std::size_t i = 0; i < tokens.array().size(); ++i) {
    const JsonAt token = tokens.at(i);
    const std::string id = std::to_string(token.at("id").index(std::uint64_t{1} << 31U));
    if (!config["added_tokens_decoder"].contains(id)) config["added_tokens_decoder"][id] = Json(token.json());
  }
  return config.dump();
}

bool is_tokenizer_file(const std::string& name) {
  constexpr std::array names = {"tokenizer.json",
                                "tokenizer.model",
                                "tokenizer_config.json",
                                "added_tokens.json",
                                "special_tokens_map.json",
                                "generation_config.json",
                                "vocab.json",
                                "merges.txt",
                                "chat_template.jinja",
                                "tekken.json"};
  return std::find(names.begin(), names.end(), name) != names.end() || name.ends_with(".tiktoken");
}

}  // namespace limbeck::data
