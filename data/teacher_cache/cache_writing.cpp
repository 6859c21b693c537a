#include "data/teacher_cache/cache_writing.h"

#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <set>

#include "core/error.h"
#include "data/files/atomic_file.h"

namespace limbeck::data {

using core::check;
namespace fs = std::filesystem;

namespace {

constexpr std::string_view prefix = "part_", suffix = ".h5";

/// The number of a part's name; nothing of others.
std::optional<std::int64_t> part_number(const std::string& name) {
  if (!name.starts_with(prefix) || !name.ends_with(suffix)) return std::nullopt;
  std::int64_t number = 0;
  const char* end = name.data() + name.size() - suffix.size();
  const auto [at, error] = std::from_chars(name.data() + prefix.size(), end, number);
  return error == std::errc() && at == end && number >= 0 ? std::optional(number) : std::nullopt;
}

std::vector<std::string> names_in(const fs::path& folder) {
  std::vector<std::string> names;
  for (const auto& item : fs::directory_iterator(folder)) names.push_back(item.path().filename().string());
  std::sort(names.begin(), names.end());
  return names;
}

/// The cache's manifest, or that of a new one.
CacheManifest manifest_for(const fs::path& folder, const CacheIdentity& identity) {
  identity.contents.check_valid();
  if (is_teacher_cache(folder)) {
    CacheManifest manifest = read_cache_manifest(folder);
    if (const auto difference = identity_difference(manifest.identity, identity))
      core::fail_usage("{}: {}", folder.string(), *difference);
    return manifest;
  }
  for (const std::string& name : names_in(folder))
    if (!name.starts_with('.') && name != std::string(cache_manifest_name) + ".tmp")
      core::fail_usage("{}: holds {} and no {}, expected a teacher cache or an empty folder", folder.string(), name,
                       cache_manifest_name);
  return {.identity = identity};
}

}  // namespace

CacheLock::CacheLock(const fs::path& folder, const std::optional<CacheShare>& share)
    : of_all_((make_folder(folder), folder / ".lock")), own_(folder / ".lock") {
  check(of_all_.take(share ? FileLock::Kind::Shared : FileLock::Kind::Alone),
        "{}: another process writes to this teacher cache", folder.string());
  if (!share) return;
  own_ = folder / fmt::format(".share_{}_of_{}", share->index, share->count);
  check(of_share_.emplace(own_).take(), "{}: another process writes share {}/{} of this teacher cache", folder.string(),
        share->index, share->count);
}

CacheLock::~CacheLock() { ::unlink(own_.c_str()); }

CacheLeftovers begin_teacher_cache(const fs::path& folder, const CacheIdentity& identity) {
  make_folder(folder);
  CacheManifest manifest = manifest_for(folder, identity);
  std::set<std::string> listed;
  for (const CachePartInfo& part : manifest.parts) listed.insert(part.file.name);
  CacheLeftovers left;
  for (const std::string& name : names_in(folder)) {
    if (name.starts_with(prefix) && name.ends_with(".tmp")) fs::remove(folder / name);
    if (!part_number(name) || listed.contains(name)) continue;
    manifest.parts.push_back(CachePart::examine(folder, name, manifest.identity));
    left.documents += manifest.parts.back().documents;
    left.positions += manifest.parts.back().positions;
  }
  write_cache_manifest(folder, manifest);
  return left;
}

void join_teacher_cache(const fs::path& folder, const CacheIdentity& identity) {
  make_folder(folder);
  const FileLock others(folder / ".begin");
  others.wait();
  const CacheManifest manifest = manifest_for(folder, identity);
  if (!is_teacher_cache(folder)) write_cache_manifest(folder, manifest);
}

CacheText::CacheText(std::shared_ptr<const TokenFile> file)
    : name(file->prefix()),
      num_documents(file->num_documents()),
      read([file](std::int64_t document) { return file->read(document); }) {}

CacheText::CacheText(std::string text_name, std::span<const Document> documents)
    : name(std::move(text_name)),
      num_documents(std::ssize(documents)),
      read([documents](std::int64_t document) { return documents[static_cast<std::size_t>(document)].ids; }) {}

std::vector<CacheWork> cache_work(const TeacherCache& cache, const std::vector<CacheText>& texts,
                                  std::int64_t positions_a_file) {
  std::int64_t next = 0;
  for (const CachePartInfo& part : cache.manifest().parts)
    next = std::max(next, part_number(part.file.name).value_or(-1) + 1);
  std::vector<CacheWork> works;
  std::set<DocumentKey> taken;
  for (std::size_t t = 0; t < texts.size(); ++t)
    for (std::int64_t d = 0; d < texts[t].num_documents; ++d) {
      const std::vector<std::int32_t> ids = texts[t].read(d);
      const std::int64_t positions = std::ssize(ids) - 1;
      if (positions < 1) continue;
      const DocumentKey key = document_key(ids);
      if (cache.find(key) || !taken.insert(key).second) continue;
      if (works.empty() || works.back().positions >= positions_a_file)
        works.push_back({.name = fmt::format("{}{:05}{}", prefix, next++, suffix)});
      works.back().documents.push_back({t, d});
      works.back().positions += positions;
    }
  return works;
}

std::vector<CacheWork> of_share(std::vector<CacheWork> works, const fs::path& folder, const CacheShare& share) {
  std::vector<CacheWork> own;
  for (std::size_t i = 0; i < works.size(); ++i)
    if (static_cast<std::int64_t>(i) % share.count == share.index && !fs::exists(folder / works[i].name))
      own.push_back(std::move(works[i]));
  return own;
}

void finish_teacher_cache(const fs::path& folder, const std::vector<CachePartInfo>& parts,
                          const std::vector<std::shared_ptr<const TokenFile>>& complete_texts) {
  CacheManifest manifest = read_cache_manifest(folder);
  for (const CachePartInfo& part : parts) {
    const auto damage = check_file(folder, part.file, /*with_hash=*/false);
    check(!damage, "{}", damage.value_or(""));
    manifest.parts.push_back(part);
  }
  std::sort(manifest.parts.begin(), manifest.parts.end(),
            [](const CachePartInfo& a, const CachePartInfo& b) { return a.file.name < b.file.name; });
  for (const auto& text : complete_texts) {
    const std::uint64_t fingerprint = text->fingerprint();
    const bool is_there = std::any_of(manifest.texts.begin(), manifest.texts.end(),
                                      [&](const CachedText& other) { return other.fingerprint == fingerprint; });
    if (!is_there) manifest.texts.push_back({fingerprint, text->num_documents(), text->num_tokens(), text->prefix()});
  }
  write_cache_manifest(folder, manifest);
}

}  // namespace limbeck::data
