#include "data/tokenizers/answer_ends.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "data/files/atomic_file.h"
#include "data/files/json_at.h"
#include "data/files/json_text.h"
#include "data/models/gguf.h"

namespace limbeck::data {

using nlohmann::json;
namespace fs = std::filesystem;

namespace {

constexpr std::uintmax_t max_file_bytes = std::uintmax_t{1} << 24U;
constexpr const char* field = "eos_token_id";
constexpr const char* limbeck_key = "limbeck.answer_end_ids";

void add_once(std::vector<std::int64_t>& ids, std::int64_t id) {
  if (std::find(ids.begin(), ids.end(), id) == ids.end()) ids.push_back(id);
}

void add_ids(const json& config, const std::string& where, std::vector<std::int64_t>& ids) {
  const auto add = [&](const JsonAt& id) {
    if (!id.json().is_number_integer()) id.refuse("a token's id");
    add_once(ids, id.json().get<std::int64_t>());
  };
  const JsonAt value = JsonAt(config, where).get(field);
  if (value.json().is_array())
    for (std::size_t i = 0; i < value.size(); ++i) add(value.at(i));
  else if (!value.is_null())
    add(value);
}

std::vector<std::int32_t> within(const std::vector<std::int64_t>& ids, std::int64_t vocabulary) {
  std::vector<std::int32_t> result;
  for (const auto id : ids)
    if (id >= 0 && id < vocabulary) result.push_back(static_cast<std::int32_t>(id));
  return result;
}

}  // namespace

std::string read_generation_config(const fs::path& folder) {
  const fs::path path = folder / "generation_config.json";
  const std::string text = fs::exists(path) ? read_text_file(path, max_file_bytes) : "";
  auto config = parse_json<nlohmann::ordered_json>(text.empty() ? "{}" : text, path.string());
  std::vector<std::int64_t> ids;
  add_ids(json(config), path.string(), ids);
  const std::size_t own = ids.size();
  const fs::path model = folder / "config.json";
  if (fs::exists(model))
    add_ids(parse_json<json>(read_text_file(model, max_file_bytes), model.string()), model.string(), ids);
  if (ids.size() == own) return text;
  config[field] = ids.size() == 1 ? nlohmann::ordered_json(ids.front()) : nlohmann::ordered_json(ids);
  return config.dump(2) + "\n";
}

std::vector<std::int32_t> answer_ends(const std::string& generation_config, const std::string& where,
                                      std::int64_t vocabulary) {
  std::vector<std::int64_t> ids;
  if (!generation_config.empty()) add_ids(parse_json<json>(generation_config, where), where, ids);
  return within(ids, vocabulary);
}

std::string write_generation_config(std::optional<std::int32_t> bos, const std::vector<std::int32_t>& ends) {
  nlohmann::ordered_json config = {{"bos_token_id", bos ? nlohmann::ordered_json(*bos) : nullptr}};
  config[field] = ends.size() == 1 ? nlohmann::ordered_json(ends.front()) : nlohmann::ordered_json(ends);
  return config.dump(2) + "\n";
}

std::vector<std::int32_t> without(std::vector<std::int32_t> ends, std::int32_t eos) {
  std::erase(ends, eos);
  return ends;
}

std::vector<std::int32_t> answer_ends(const GgufFile& file, std::int64_t size) {
  std::vector<std::int64_t> ids;
  for (const char* key : {"tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"})
    if (file.has(key)) add_once(ids, file.integer(key));
  if (file.has(limbeck_key))
    for (const auto id : file.integers(limbeck_key)) add_once(ids, id);
  return within(ids, size);
}

void add_answer_ends(GgufKeys& keys, const std::vector<std::int32_t>& other_ends) {
  const auto add = [&](const char* name, std::size_t i) {
    if (i < other_ends.size()) keys.emplace_back(name, static_cast<std::uint32_t>(other_ends[i]));
  };
  add("tokenizer.ggml.eot_token_id", 0);
  add("tokenizer.ggml.eom_token_id", 1);
  if (other_ends.size() > 2)
    keys.emplace_back(limbeck_key, std::vector<std::int32_t>(other_ends.begin() + 2, other_ends.end()));
}

}  // namespace limbeck::data
