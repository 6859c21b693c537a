// What a teacher cache says of itself, in cache.json: whose distributions, of which tokens, how they are kept, which
// texts are wholly in it, and its files. It is written last, whole or not at all.
//
//     const CacheManifest manifest = read_cache_manifest("caches/smollm2");
//     if (const auto difference = identity_difference(manifest.identity, wanted)) core::fail_usage("{}", *difference);
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "data/checkpoints/manifest.h"
#include "data/teacher_cache/cached_rows.h"

namespace limbeck::data {

/// What is the same of all that a cache holds.
struct CacheIdentity {
  std::string teacher;                // its fingerprint
  std::string teacher_source;         // where it lay: for messages alone
  std::uint64_t tokenizer = 0;        // vocabulary_fingerprint of its named tokens
  std::int64_t tokenizer_tokens = 0;  // how many
  std::int64_t window = 0;            // tokens that the teacher read at once
  std::int64_t stride = 0;            // from window to window
  CacheContents contents;
};

/// A token file all of whose documents are in the cache.
struct CachedText {
  std::uint64_t fingerprint = 0;  // TokenFile::fingerprint
  std::int64_t documents = 0;
  std::int64_t tokens = 0;
  std::string name;  // where it lay: for messages alone
};

/// A file of the cache.
struct CachePartInfo {
  ManifestFile file;
  std::uint64_t index_hash = 0;  // of what stands beside the blocks
  std::int64_t documents = 0;
  std::int64_t positions = 0;
};

struct CacheManifest {
  static constexpr int current_version = 1;
  CacheIdentity identity;
  std::vector<CachedText> texts = {};
  std::vector<CachePartInfo> parts = {};

  std::int64_t num_positions() const;
};

inline constexpr const char* cache_manifest_name = "cache.json";

/// Whether there is a cache, or the begin of one.
bool is_teacher_cache(const std::filesystem::path& folder);
void write_cache_manifest(const std::filesystem::path& folder, const CacheManifest& manifest);
/// Throws, naming the file: missing, no such manifest, another hash, a later version, an impossible field.
CacheManifest read_cache_manifest(const std::filesystem::path& folder);

/// Of all in an identity but where the teacher lay: parts have it too, so that one of another cache is told apart.
std::uint64_t identity_hash(const CacheIdentity& identity);
/// "the teacher is another: ..." for the first thing that differs: teacher, tokenizer, windows, or what is kept.
std::optional<std::string> identity_difference(const CacheIdentity& cache, const CacheIdentity& wanted);

std::string to_text(const CachePartInfo& part);
CachePartInfo cache_part_info_from_text(const std::string& text, const std::string& where);

}  // namespace limbeck::data
