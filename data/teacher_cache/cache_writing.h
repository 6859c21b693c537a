// How a teacher cache comes to be: begun by one rank, written by many, a file after the other, and closed by one. What
// a killed writer left is taken up: whole files stay, and only what they lack is done.
//
//     CacheIdentity identity = begin_teacher_cache(folder, wanted);                        // the first rank
//     const std::vector<CacheWork> works = cache_work(TeacherCache(folder), texts, 65536);  // the same on every rank
//     for (...) infos.push_back(write(works[i]));                                          // each rank its own
//     finish_teacher_cache(folder, infos, texts);                                          // the first rank, all infos
//
// Several writers at once take a share of the files each, which join_teacher_cache begins and nothing closes: they are
// leftovers, which whoever closes the cache takes in.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "data/files/file_lock.h"
#include "data/teacher_cache/teacher_cache.h"
#include "data/text/documents.h"
#include "data/text/token_file.h"

namespace limbeck::data {

/// One of several writers at once: every count-th of the missing files, from the index-th on, is its own.
struct CacheShare {
  std::int64_t index = 0;
  std::int64_t count = 1;
};

/// A cache that is open for writing in one process at a time, or in one for each share.
class CacheLock {
 public:
  /// Makes the folder where it is missing. Throws where another process writes to the cache, or this share of it.
  explicit CacheLock(const std::filesystem::path& folder, const std::optional<CacheShare>& share = {});
  ~CacheLock();
  CacheLock(const CacheLock&) = delete;
  CacheLock& operator=(const CacheLock&) = delete;

 private:
  FileLock of_all_;
  std::optional<FileLock> of_share_;
  std::filesystem::path own_;  // the file that goes with this lock
};

/// What an interrupted writer left.
struct CacheLeftovers {
  std::int64_t documents = 0;
  std::int64_t positions = 0;
};

/// Makes a cache of this identity, or goes on with that in the folder, which throws a UsageError where it is of another
/// and names what differs. Whole files that the manifest does not list yet are taken in; temporary ones go.
CacheLeftovers begin_teacher_cache(const std::filesystem::path& folder, const CacheIdentity& identity);

/// Of a share: makes the cache where there is none yet. What others left and write is not looked at. Throws as
/// begin_teacher_cache.
void join_teacher_cache(const std::filesystem::path& folder, const CacheIdentity& identity);

/// Documents that a cache is to have.
struct CacheText {
  std::string name;  // for messages alone
  std::int64_t num_documents = 0;
  std::function<std::vector<std::int32_t>(std::int64_t)> read;  // the tokens of one

  CacheText(std::shared_ptr<const TokenFile> file);  // NOLINT(google-explicit-constructor): a token file is a text
  /// Of documents that stay where they are.
  CacheText(std::string text_name, std::span<const Document> documents);
};

/// Documents of one file of the cache.
struct CacheWork {
  struct Document {
    std::size_t text = 0;  // of the texts
    std::int64_t document = 0;
  };
  std::string name;  // of the file
  std::vector<Document> documents = {};
  std::int64_t positions = 0;
};

/// What is missing for all documents of these texts, each once, in files of about so many positions, in order. A
/// function of the cache and the texts alone.
std::vector<CacheWork> cache_work(const TeacherCache& cache, const std::vector<CacheText>& texts,
                                  std::int64_t positions_a_file);

/// Of these files those of a share that are not in the folder yet.
std::vector<CacheWork> of_share(std::vector<CacheWork> works, const std::filesystem::path& folder,
                                const CacheShare& share);

/// Lists the files in the manifest and, where nothing is missing, the texts. Throws where one of the files is not
/// there.
void finish_teacher_cache(const std::filesystem::path& folder, const std::vector<CachePartInfo>& parts,
                          const std::vector<std::shared_ptr<const TokenFile>>& complete_texts);

}  // namespace limbeck::data
