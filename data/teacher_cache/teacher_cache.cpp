#include "data/teacher_cache/teacher_cache.h"

#include <algorithm>

#include "core/error.h"

namespace limbeck::data {

using core::check;

TeacherCache::TeacherCache(std::filesystem::path folder)
    : folder_(std::move(folder)), manifest_(read_cache_manifest(folder_)) {
  for (const CachePartInfo& info : manifest_.parts) {
    const CachePart& part = parts_.emplace_back(folder_, info, manifest_.identity);
    for (std::size_t d = 0; d < part.documents().size(); ++d)
      entries_.push_back(
          {part.documents()[d], static_cast<std::uint32_t>(parts_.size() - 1), static_cast<std::uint32_t>(d)});
  }
  std::sort(entries_.begin(), entries_.end(), [](const Entry& a, const Entry& b) { return a.document < b.document; });
  const auto twice = std::adjacent_find(entries_.begin(), entries_.end(),
                                        [](const Entry& a, const Entry& b) { return a.document == b.document; });
  if (twice != entries_.end())
    core::fail("{}: a document is in {} and again in {}", folder_.string(), manifest_.parts[twice->part].file.name,
               manifest_.parts[(twice + 1)->part].file.name);
}

std::optional<TeacherCache::Place> TeacherCache::find(const DocumentKey& document) const {
  const auto found = std::lower_bound(entries_.begin(), entries_.end(), document,
                                      [](const Entry& entry, const DocumentKey& key) { return entry.document < key; });
  if (found == entries_.end() || found->document != document) return std::nullopt;
  return Place{found->part, found->place};
}

CachedRows TeacherCache::read(const Place& place, std::int64_t first, std::int64_t count) const {
  return parts_.at(place.part).read(place.document, first, count);
}

void TeacherCache::check_whole() const {
  for (const CachePartInfo& info : manifest_.parts) {
    const auto damage = check_file(folder_, info.file, /*with_hash=*/true);
    check(!damage, "{}", damage.value_or(""));
  }
}

}  // namespace limbeck::data
