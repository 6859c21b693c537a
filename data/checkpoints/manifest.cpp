#include "data/checkpoints/manifest.h"

#include <fcntl.h>
#include <unistd.h>
#include <xxhash.h>

#include <cerrno>
#include <climits>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/system_error.h"
#include "data/files/atomic_file.h"
#include "data/files/hash_text.h"
#include "data/files/json_at.h"
#include "data/files/json_text.h"
#include "data/files/xxh3.h"

namespace limbeck::data {

using core::check;
using core::fail;
using Json = nlohmann::json;
namespace fs = std::filesystem;

namespace {

constexpr const char* manifest_name = "manifest.json";
constexpr std::uintmax_t max_manifest_bytes = std::uintmax_t{1} << 30U;
// The file starts with this, then 16 hexadecimal digits.
constexpr std::string_view opening = "{\n \"manifest_hash\": \"";

/// Checks the manifest's own hash, in place of which zeros are hashed.
void check_own_hash(std::string text) {
  check(text.size() > opening.size() + 16 && text.starts_with(opening), "does not start as a manifest does");
  const std::string stored = text.substr(opening.size(), 16);
  text.replace(opening.size(), 16, 16, '0');
  const std::string actual = hash_text(XXH3_64bits(text.data(), text.size()));
  check(stored == actual, "is corrupt: its hash is {}, expected {}", actual, stored);
}

ManifestFile file_from(const JsonAt& json) {
  ManifestFile file{json.at("name").text(), json.at("size").index(INT64_MAX), hash_at(json.at("xxh3"))};
  if (file.name.empty() || file.name.size() > 255 ||
      file.name.find_first_of(std::string_view("/\0", 2)) != std::string::npos || file.name[0] == '.')
    json.at("name").refuse("a name without a folder");
  return file;
}

}  // namespace

std::uint64_t hash_file(const fs::path& path) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  core::check_system(fd >= 0, "{}: cannot be opened", path.string());
  ::posix_fadvise(fd, 0, 0, POSIX_FADV_SEQUENTIAL);
  Xxh3 hash;
  std::vector<std::byte> buffer(1U << 20U);  // stays in a core's cache between the copy and the hash
  ssize_t n = 0;
  int reason = 0;
  while ((n = ::read(fd, buffer.data(), buffer.size())) != 0) {
    if (n > 0)
      hash.add({buffer.data(), static_cast<std::size_t>(n)});
    else if (errno != EINTR) {
      reason = errno;
      break;
    }
  }
  ::close(fd);
  errno = reason;
  core::check_system(reason == 0, "{}: cannot be read", path.string());
  return hash.value();
}

ManifestFile describe_file(const fs::path& folder, const std::string& name) {
  return {name, static_cast<std::int64_t>(fs::file_size(folder / name)), hash_file(folder / name)};
}

void write_manifest(const fs::path& folder, const Manifest& manifest) {
  auto files = nlohmann::ordered_json::array();
  for (const auto& file : manifest.files)
    files.push_back({{"name", file.name}, {"size", file.size}, {"xxh3", hash_text(file.hash)}});
  const nlohmann::ordered_json json = {{"manifest_hash", hash_text(0)},
                                       {"limbeck_checkpoint", manifest.version},
                                       {"step", manifest.step},
                                       {"files", std::move(files)},
                                       {"extra", manifest.extra}};
  std::string text;
  try {
    text = json.dump(1) + "\n";
  } catch (const Json::exception& error) {
    fail("{}: the extra text cannot be written: {}", (folder / manifest_name).string(), json_reason(error));
  }
  text.replace(opening.size(), 16, hash_text(XXH3_64bits(text.data(), text.size())));
  write_file_atomically(folder / manifest_name, text);
}

Manifest read_manifest(const fs::path& folder) {
  const fs::path path = folder / manifest_name;
  const std::string text = read_text_file(path, max_manifest_bytes);
  try {
    const auto parsed = parse_json<Json>(text, "is no manifest");
    const JsonAt json(parsed, "is no manifest, expected what a checkpoint's save writes");
    Manifest manifest;
    // The version comes before the hash: a later version may place its hash elsewhere.
    manifest.version = static_cast<int>(json.at("limbeck_checkpoint").index(INT_MAX));
    check(manifest.version >= 1 && manifest.version <= Manifest::current_version,
          "format version is {}, this build reads versions up to {}", manifest.version, Manifest::current_version);
    check_own_hash(text);
    manifest.step = json.at("step").index(INT64_MAX);
    const JsonAt files = json.at("files");
    for (std::size_t i = 0; i < files.array().size(); ++i) manifest.files.push_back(file_from(files.at(i)));
    manifest.extra = json.at("extra").text();
    return manifest;
  } catch (const core::Error& error) {
    fail("{}: {}", path.string(), error.what());
  }
}

std::optional<std::string> check_file(const fs::path& folder, const ManifestFile& file, bool with_hash) {
  const fs::path path = folder / file.name;
  std::error_code error;
  const fs::file_type type = fs::symlink_status(path, error).type();
  if (type == fs::file_type::not_found) return fmt::format("{}: is missing", path.string());
  if (type != fs::file_type::regular)  // a link may lead anywhere
    return fmt::format("{}: is no regular file, expected one in the checkpoint's own folder", path.string());
  const auto size = static_cast<std::int64_t>(fs::file_size(path, error));
  if (error) return fmt::format("{}: {}", path.string(), error.message());
  if (size != file.size)
    return fmt::format("{}: {}: has {} bytes, expected {}", path.string(),
                       size < file.size ? "is truncated" : "is too long", size, file.size);
  if (!with_hash) return std::nullopt;
  try {
    const std::uint64_t hash = hash_file(path);
    if (hash != file.hash)
      return fmt::format("{}: is corrupt: its hash is {}, expected {}", path.string(), hash_text(hash),
                         hash_text(file.hash));
  } catch (const core::Error& unreadable) {
    return unreadable.what();
  }
  return std::nullopt;
}

}  // namespace limbeck::data
