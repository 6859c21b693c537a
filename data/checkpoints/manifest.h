// The last file of a checkpoint, manifest.json: the size and hash of every other file, so that damage is found and
// named.
//
//     write_manifest(folder, {.step = 20, .files = {{"index.h5", 4096, hash_file(folder / "index.h5")}}, .extra =
//     "{}"}); Manifest manifest = read_manifest(folder);                       // throws where it is missing or damaged
//     if (auto problem = check_file(folder, manifest.files[0], true)) // "…/index.h5 is truncated: …"
//
// Its own first field is the hash of its own bytes (with that field zero).
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace limbeck::data {

struct ManifestFile {
  std::string name;  // in the folder
  std::int64_t size = 0;
  std::uint64_t hash = 0;  // XXH3, 64 bits
};

struct Manifest {
  static constexpr int current_version = 1;
  int version = current_version;
  std::int64_t step = 0;
  std::vector<ManifestFile> files;
  std::string extra;  // the writer's own text: JSON of the trainer's state, for instance; UTF-8
};

/// XXH3 (64 bits) of a file's bytes. Throws where it cannot be read.
std::uint64_t hash_file(const std::filesystem::path& path);

/// Name, size and hash of folder/name.
ManifestFile describe_file(const std::filesystem::path& folder, const std::string& name);

/// Writes folder/manifest.json, whole or not at all.
void write_manifest(const std::filesystem::path& folder, const Manifest& manifest);

/// Throws, naming the file and the fault: missing, no JSON, another hash, a later version, an impossible field.
Manifest read_manifest(const std::filesystem::path& folder);

/// Nothing if the file is as described; else one line: the file is missing, truncated, too long or corrupt.
/// `with_hash` reads all of it, else the size alone is compared.
std::optional<std::string> check_file(const std::filesystem::path& folder, const ManifestFile& file, bool with_hash);

}  // namespace limbeck::data
