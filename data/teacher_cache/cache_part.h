// One file of a teacher cache: documents and the blocks of their rows, as HDF5.
//
//     CachePartWriter writer(folder, "part_00003.h5", identity);
//     writer.begin(document_key(tokens), 200);
//     writer.append(rows);                                        // as often as it takes until all 200 are there
//     CachePartInfo info = writer.finish();                       // the file has its name now
//     CachePart part(folder, info, identity);
//     CachedRows some = part.read(/*document=*/0, /*first=*/100, /*count=*/28);
#pragma once

#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "data/files/random_access_file.h"
#include "data/teacher_cache/cache_manifest.h"

namespace limbeck::data {

/// Keeps what was added until finish(), as bytes of the file, so these fit into memory.
class CachePartWriter {
 public:
  CachePartWriter(std::filesystem::path folder, std::string name, const CacheIdentity& identity);

  /// A document of so many positions, one for each token but the last; the one before has all its rows.
  void begin(const DocumentKey& document, std::int64_t positions);
  /// Its next rows.
  void append(const CachedRows& rows);
  /// All of a document.
  void add(const DocumentKey& document, const CachedRows& rows);
  std::int64_t num_positions() const { return positions_; }
  /// Writes the file, brings it to the disk and gives it its name. Bytes follow from what was added alone.
  CachePartInfo finish();

 private:
  void begin_block();

  std::filesystem::path folder_;
  std::string name_;
  CacheIdentity identity_;
  std::vector<std::int64_t> documents_, lengths_, ends_, hashes_;
  std::vector<std::string> blocks_;
  std::int64_t positions_ = 0;
  std::int64_t left_ = 0;  // rows that the last document lacks
  CachedRows block_;       // of it, of which so many rows are there
  std::int64_t rows_of_block_ = 0;
};

/// May be read from several threads at once.
class CachePart {
 public:
  /// Reads all but the blocks. Throws, naming the file and what is wrong: no regular file of the folder, another size
  /// or hash of its index than `info` says, of another cache, no such HDF5 file, or extents that do not fit each other.
  CachePart(const std::filesystem::path& folder, const CachePartInfo& info, const CacheIdentity& identity);
  /// Of a file that no manifest tells of, which an interrupted writer left: reads all of it, too.
  static CachePartInfo examine(const std::filesystem::path& folder, const std::string& name,
                               const CacheIdentity& identity);

  const std::vector<DocumentKey>& documents() const { return documents_; }
  std::int64_t num_positions(std::size_t document) const { return lengths_[document]; }
  /// Rows [first, first + count) of a document. Throws, naming the file and the block, where its hash is another.
  CachedRows read(std::size_t document, std::int64_t first, std::int64_t count) const;
  /// Throws, naming the file and the block, where a block is not as it was written.
  void check_blocks() const;

 private:
  CachePart(std::filesystem::path path, const CacheIdentity& identity);
  void load();
  std::string block(std::size_t number) const;
  CachedRows rows_of_block(std::size_t document, std::int64_t block) const;

  std::filesystem::path path_;
  CacheIdentity identity_;
  std::uint64_t index_hash_ = 0;
  std::vector<DocumentKey> documents_;
  std::vector<std::int64_t> lengths_;
  std::vector<std::int64_t> first_block_;  // of each document
  std::vector<std::int64_t> ends_, hashes_;
  std::int64_t data_at_ = 0;  // in the file
  std::unique_ptr<RandomAccessFile> file_;
};

}  // namespace limbeck::data
