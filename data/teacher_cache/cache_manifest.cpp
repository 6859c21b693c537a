#include "data/teacher_cache/cache_manifest.h"

#include <fmt/ranges.h>
#include <xxhash.h>

#include <climits>
#include <cmath>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "data/files/atomic_file.h"
#include "data/files/hash_text.h"
#include "data/files/json_at.h"
#include "data/files/json_text.h"

namespace limbeck::data {

using core::check;
using Json = nlohmann::ordered_json;
namespace fs = std::filesystem;

namespace {

constexpr std::uintmax_t most_bytes = std::uintmax_t{1} << 30U;
constexpr std::int64_t most_tokens = std::int64_t{1} << 24U;

Json to_json(const CacheContents& c) {
  Json json = {{"kind", name_of(c.kind)},
               {"kept", c.kept},
               {"quantised", c.quantised},
               {"temperatures", c.temperatures},
               {"vocabulary", c.vocabulary}};
  if (!c.hidden_layers.empty()) json["hidden"] = {{"layers", c.hidden_layers}, {"width", c.hidden_width}};
  return json;
}

CacheContents contents_from(const JsonAt& json) {
  CacheContents contents;
  const std::string& kind = json.at("kind").text();
  bool is_known = false;
  for (const CacheKind known : {CacheKind::TopK, CacheKind::Sampled, CacheKind::Full})
    if (kind == name_of(known)) contents.kind = known, is_known = true;
  if (!is_known) json.at("kind").refuse("TOP_K, SAMPLED or FULL");
  contents.kept = json.at("kept").index(65536);
  contents.quantised = json.at("quantised").flag();
  contents.vocabulary = json.at("vocabulary").index(most_cached_vocabulary + 1);
  const JsonAt temperatures = json.at("temperatures");
  contents.temperatures.clear();
  for (std::size_t i = 0; i < temperatures.array().size(); ++i) {
    if (!temperatures.at(i).json().is_number()) temperatures.at(i).refuse("a number");
    contents.temperatures.push_back(temperatures.at(i).json().get<double>());
  }
  if (json.json().contains("hidden")) {
    const JsonAt layers = json.at("hidden").at("layers");
    for (std::size_t i = 0; i < layers.array().size(); ++i)
      contents.hidden_layers.push_back(layers.at(i).index(INT64_MAX));
    if (contents.hidden_layers.empty()) layers.refuse("one layer or more");
    contents.hidden_width = json.at("hidden").at("width").index(most_hidden_width + 1);
  }
  contents.check_valid();
  return contents;
}

Json identity_json(const CacheIdentity& id, bool with_source) {
  Json teacher = {{"fingerprint", id.teacher}};
  if (with_source) teacher["source"] = id.teacher_source;
  return {{"teacher", std::move(teacher)},
          {"tokenizer", {{"fingerprint", hash_text(id.tokenizer)}, {"tokens", id.tokenizer_tokens}}},
          {"windows", {{"length", id.window}, {"stride", id.stride}}},
          {"contents", to_json(id.contents)}};
}

CacheIdentity identity_from(const JsonAt& json) {
  CacheIdentity id;
  id.teacher = json.at("teacher").at("fingerprint").text();
  id.teacher_source = json.at("teacher").at("source").text();
  id.tokenizer = hash_at(json.at("tokenizer").at("fingerprint"));
  id.tokenizer_tokens = json.at("tokenizer").at("tokens").index(most_tokens + 1);
  id.window = json.at("windows").at("length").index(INT64_MAX);
  id.stride = json.at("windows").at("stride").index(INT64_MAX);
  if (id.stride < 1 || id.stride > id.window) json.at("windows").at("stride").refuse("1 to the windows' length");
  id.contents = contents_from(json.at("contents"));
  return id;
}

Json to_json(const CachePartInfo& part) {
  return {{"name", part.file.name},
          {"size", part.file.size},
          {"xxh3", hash_text(part.file.hash)},
          {"index_xxh3", hash_text(part.index_hash)},
          {"documents", part.documents},
          {"positions", part.positions}};
}

CachePartInfo part_from(const JsonAt& json) {
  CachePartInfo part;
  part.file = {json.at("name").text(), json.at("size").index(INT64_MAX), hash_at(json.at("xxh3"))};
  const std::string& name = part.file.name;
  if (!name.starts_with("part_") || name.size() > 255 || name.find_first_of(std::string_view("/\0", 2)) != name.npos)
    json.at("name").refuse("part_NUMBER.h5");
  part.index_hash = hash_at(json.at("index_xxh3"));
  part.documents = json.at("documents").index(INT64_MAX);
  part.positions = json.at("positions").index(INT64_MAX);
  return part;
}

std::uint64_t hash_of(const Json& json) {
  const std::string text = json.dump();
  return XXH3_64bits(text.data(), text.size());
}

std::string described(const CacheContents& c) {
  return fmt::format("{}{}, {} at temperature{} {}, of {} tokens{}", name_of(c.kind),
                     c.kind == CacheKind::Full ? "" : fmt::format(" {}", c.kept),
                     c.quantised ? "quantised" : "not quantised", c.temperatures.size() == 1 ? "" : "s",
                     fmt::join(c.temperatures, ", "), c.vocabulary,
                     c.hidden_layers.empty()
                         ? ""
                         : fmt::format(", {} channels of layers {}", c.hidden_width, fmt::join(c.hidden_layers, ", ")));
}

}  // namespace

std::int64_t CacheManifest::num_positions() const {
  std::int64_t sum = 0;
  for (const CachePartInfo& part : parts) sum += part.positions;
  return sum;
}

bool is_teacher_cache(const fs::path& folder) { return fs::exists(folder / cache_manifest_name); }

void write_cache_manifest(const fs::path& folder, const CacheManifest& manifest) {
  Json cache = {{"limbeck_teacher_cache", CacheManifest::current_version}};
  cache.update(identity_json(manifest.identity, /*with_source=*/true));
  cache["texts"] = Json::array();
  for (const CachedText& text : manifest.texts)
    cache["texts"].push_back({{"fingerprint", hash_text(text.fingerprint)},
                              {"documents", text.documents},
                              {"tokens", text.tokens},
                              {"name", text.name}});
  cache["files"] = Json::array();
  for (const CachePartInfo& part : manifest.parts) cache["files"].push_back(to_json(part));
  const Json whole = {{"hash", hash_text(hash_of(cache))}, {"cache", cache}};
  write_file_atomically(folder / cache_manifest_name,
                        whole.dump(1, ' ', false, nlohmann::detail::error_handler_t::replace) + "\n");
}

CacheManifest read_cache_manifest(const fs::path& folder) {
  const fs::path path = folder / cache_manifest_name;
  const std::string text = read_text_file(path, most_bytes);
  try {
    const auto ordered = parse_json<Json>(text, "is no manifest");
    const nlohmann::json parsed = ordered;
    const JsonAt json(parsed, "is no teacher cache's manifest");
    const JsonAt cache = json.at("cache");
    const auto version = cache.at("limbeck_teacher_cache").index(INT_MAX);
    check(version >= 1 && version <= CacheManifest::current_version,
          "format version is {}, this build reads versions up to {}", version, CacheManifest::current_version);
    const std::uint64_t stored = hash_at(json.at("hash")), actual = hash_of(ordered.at("cache"));
    check(stored == actual, "is corrupt: its hash is {}, expected {}", hash_text(actual), hash_text(stored));
    CacheManifest manifest;
    manifest.identity = identity_from(cache);
    const JsonAt texts = cache.at("texts"), files = cache.at("files");
    for (std::size_t i = 0; i < texts.array().size(); ++i)
      manifest.texts.push_back({hash_at(texts.at(i).at("fingerprint")), texts.at(i).at("documents").index(INT64_MAX),
                                texts.at(i).at("tokens").index(INT64_MAX), texts.at(i).at("name").text()});
    for (std::size_t i = 0; i < files.array().size(); ++i) manifest.parts.push_back(part_from(files.at(i)));
    return manifest;
  } catch (const core::Error& error) {
    core::fail("{}: {}", path.string(), error.what());
  }
}

std::uint64_t identity_hash(const CacheIdentity& identity) {
  return hash_of(identity_json(identity, /*with_source=*/false));
}

std::optional<std::string> identity_difference(const CacheIdentity& cache, const CacheIdentity& wanted) {
  if (cache.teacher != wanted.teacher)
    return fmt::format("is of another teacher: {} of fingerprint {}, expected {} of fingerprint {}",
                       cache.teacher_source, cache.teacher, wanted.teacher_source, wanted.teacher);
  if (cache.tokenizer != wanted.tokenizer || cache.tokenizer_tokens != wanted.tokenizer_tokens)
    return fmt::format("is of another tokenizer: {} tokens of fingerprint {}, expected {} of fingerprint {}",
                       cache.tokenizer_tokens, hash_text(cache.tokenizer), wanted.tokenizer_tokens,
                       hash_text(wanted.tokenizer));
  if (cache.contents != wanted.contents)
    return fmt::format("keeps something else: {}, expected {}", described(cache.contents), described(wanted.contents));
  if (cache.window != wanted.window || cache.stride != wanted.stride)
    return fmt::format("is of other windows: of {} tokens, every {}, expected {}, every {}", cache.window, cache.stride,
                       wanted.window, wanted.stride);
  return std::nullopt;
}

std::string to_text(const CachePartInfo& part) { return to_json(part).dump(); }

CachePartInfo cache_part_info_from_text(const std::string& text, const std::string& where) {
  const auto json = parse_json<nlohmann::json>(text, where);
  return part_from(JsonAt(json, where));
}

}  // namespace limbeck::data
