// A teacher's distributions on documents, kept in files: read by what a document says and a place in it, whatever
// order, layout or packing it is wanted in.
//
//     TeacherCache cache("caches/smollm2");
//     cache.check_identity(wanted);                                     // "...: is of another teacher: ..."
//     const auto place = cache.find(document_key(tokens));              // nothing: it is not in the cache
//     CachedRows rows = cache.read(*place, /*first=*/0, /*count=*/tokens.size() - 1);
#pragma once

#include <cstddef>
#include <filesystem>
#include <optional>
#include <vector>

#include "data/teacher_cache/cache_part.h"

namespace limbeck::data {

/// May be used from several threads at once.
class TeacherCache {
 public:
  struct Place {
    std::size_t part = 0;
    std::size_t document = 0;
  };

  /// Reads all but the blocks. Throws, naming the file, for what is not as the manifest says, and for a document that
  /// is there twice. Files that the manifest does not list are not looked at.
  explicit TeacherCache(std::filesystem::path folder);

  const std::filesystem::path& folder() const { return folder_; }
  const CacheManifest& manifest() const { return manifest_; }
  const CacheIdentity& identity() const { return manifest_.identity; }
  const CacheContents& contents() const { return manifest_.identity.contents; }
  std::size_t num_documents() const { return entries_.size(); }

  std::optional<Place> find(const DocumentKey& document) const;
  std::int64_t num_positions(const Place& place) const { return parts_[place.part].num_positions(place.document); }
  /// As CachePart::read.
  CachedRows read(const Place& place, std::int64_t first, std::int64_t count) const;

  /// Throws, naming the first file that is not, byte by byte, what was written. Reads all of it.
  void check_whole() const;

 private:
  struct Entry {
    DocumentKey document;
    std::uint32_t part = 0;
    std::uint32_t place = 0;
  };

  std::filesystem::path folder_;
  CacheManifest manifest_;
  std::vector<CachePart> parts_;
  std::vector<Entry> entries_;  // by document
};

}  // namespace limbeck::data
