// Token files as Megatron-LM writes them: PREFIX.bin holds the tokens of all documents one after another, PREFIX.idx
// where each document lies. (megatron/core/datasets/indexed_dataset.py; version 1; one sequence a document.)
//
//     TokenFileWriter writer("data/train", tokenizer->vocabulary_size());
//     writer.add(ids);
//     writer.finish();
//     TokenFile file("data/train");
//     std::vector<std::int32_t> ids = file.read(/*document=*/0);
#pragma once

#include <cstdint>
#include <cstdio>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "data/mapped_file.h"

namespace limbeck::data {

/// Reads, mapped. May be used from several threads at once.
class TokenFile {
 public:
  /// Throws, naming the file and the place, unless both files are there, whole and agree. `prefix` may end in .bin or
  /// .idx.
  explicit TokenFile(const std::string& prefix);

  const std::string& prefix() const { return prefix_; }
  std::int64_t num_documents() const { return static_cast<std::int64_t>(document_starts_.size()) - 1; }
  std::int64_t num_tokens() const { return document_starts_.back(); }
  /// Tokens of one document, its end of text included.
  std::int64_t document_length(std::int64_t document) const {
    return document_starts_[document + 1] - document_starts_[document];
  }
  /// Tokens [first, first + count) of one document; throws where the range leaves it.
  void read(std::int64_t document, std::int64_t first, std::int64_t count, std::int32_t* out) const;
  std::vector<std::int32_t> read(std::int64_t document) const;

 private:
  void read_index(const MappedFile& index);

  std::string prefix_;
  std::unique_ptr<MappedFile> tokens_;
  int token_bytes_ = 0;                        // 2: uint16, 4: int32
  std::vector<std::int64_t> document_starts_;  // in tokens, and the end
};

/// Writes documents as they come; nothing is seen under the final names before finish().
class TokenFileWriter {
 public:
  /// Tokens are uint16 where the vocabulary is below 65500 (as Megatron chooses), else int32. Throws where it cannot
  /// write.
  TokenFileWriter(const std::string& prefix, std::int64_t vocabulary_size);
  ~TokenFileWriter();  // without finish(), the temporary file is removed
  TokenFileWriter(const TokenFileWriter&) = delete;
  TokenFileWriter& operator=(const TokenFileWriter&) = delete;

  /// Throws for an id outside the vocabulary.
  void add(std::span<const std::int32_t> document);
  /// Flushes to the disk and gives both files their names, the index last.
  void finish();

 private:
  std::string prefix_;
  std::int64_t vocabulary_size_;
  std::FILE* tokens_ = nullptr;
  std::vector<std::int32_t> lengths_;
};

}  // namespace limbeck::data
