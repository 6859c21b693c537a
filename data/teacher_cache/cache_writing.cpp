#include "data/teacher_cache/cache_writing.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <set>

#include "core/error.h"
#include "core/system_error.h"
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

}  // namespace

CacheLock::CacheLock(const fs::path& folder) : path_(folder / ".lock") {
  make_folder(folder);
  descriptor_ = ::open(path_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
  core::check_system(descriptor_ >= 0, "{}: cannot be opened", path_.string());
  if (::flock(descriptor_, LOCK_EX | LOCK_NB) == 0) return;
  const bool is_busy = errno == EWOULDBLOCK;
  ::close(std::exchange(descriptor_, -1));
  check(!is_busy, "{}: another process writes to this teacher cache", folder.string());
}

CacheLock::~CacheLock() {
  if (descriptor_ < 0) return;
  ::unlink(path_.c_str());
  ::close(descriptor_);
}

CacheLeftovers begin_teacher_cache(const fs::path& folder, const CacheIdentity& identity) {
  identity.contents.check_valid();
  make_folder(folder);
  CacheManifest manifest{.identity = identity};
  if (is_teacher_cache(folder)) {
    manifest = read_cache_manifest(folder);
    if (const auto difference = identity_difference(manifest.identity, identity))
      core::fail_usage("{}: {}", folder.string(), *difference);
  } else {
    for (const std::string& name : names_in(folder))
      if (name != ".lock" && name != std::string(cache_manifest_name) + ".tmp")
        core::fail_usage("{}: holds {} and no {}, expected a teacher cache or an empty folder", folder.string(), name,
                         cache_manifest_name);
  }
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
