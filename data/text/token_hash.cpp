#include "data/text/token_hash.h"

#include <algorithm>
#include <array>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "data/checkpoints/manifest.h"
#include "data/files/atomic_file.h"
#include "data/files/json_text.h"

namespace limbeck::data {

namespace fs = std::filesystem;
using nlohmann::json;

namespace {

constexpr std::uintmax_t most_bytes = 4096;

std::string hash_file_of(const std::string& prefix) { return prefix + ".xxh3"; }

}  // namespace

void write_token_hash(const std::string& prefix) {
  const fs::path folder = fs::path(prefix).parent_path();
  json files = json::array();
  for (const char* extension : {".bin", ".idx", ".mask"}) {
    if (std::string_view(extension) == ".mask" && !fs::exists(prefix + extension)) continue;
    const ManifestFile file = describe_file(folder, fs::path(prefix + extension).filename().string());
    files.push_back({{"name", file.name}, {"size", file.size}, {"xxh3", file.hash}});
  }
  write_file_atomically(hash_file_of(prefix), files.dump(1) + "\n");
}

std::optional<std::string> find_token_damage(const std::string& prefix) {
  const std::string path = hash_file_of(prefix);
  try {
    const auto files = parse_json<json>(read_text_file(path, most_bytes), path);
    constexpr std::array extensions = {".bin", ".idx", ".mask"};
    for (std::size_t i = 0; i < std::clamp<std::size_t>(files.size(), 2, extensions.size()); ++i) {
      const ManifestFile file{fs::path(prefix + extensions[i]).filename().string(),
                              files.at(i).at("size").get<std::int64_t>(), files.at(i).at("xxh3").get<std::uint64_t>()};
      if (auto damage = check_file(fs::path(prefix).parent_path(), file, /*with_hash=*/true)) return damage;
    }
  } catch (const core::Error& unreadable) {
    return unreadable.what();
  } catch (const json::exception& error) {
    return fmt::format("{}: is damaged: {}", path, error.what());
  }
  return std::nullopt;
}

}  // namespace limbeck::data
