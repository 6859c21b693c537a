// Token files as Megatron-LM writes them: PREFIX.bin holds the tokens of all documents one after another, PREFIX.idx
// where each document lies. (megatron/core/datasets/indexed_dataset.py, version 1. Read: every integer type, several
// sequences a document, modes if all are text. Written: one sequence a document.) Limbeck's own beside them is
// PREFIX.mask, where not all tokens are to be learnt: a byte a token, 1 for a target, else 0.
//
//     TokenFileWriter writer("data/train", tokenizer->vocabulary_size());
//     writer.add(ids);
//     writer.finish();
//     TokenFile file("data/train");
//     std::vector<std::int32_t> ids = file.read(/*document=*/0);
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "data/files/mapped_file.h"

namespace limbeck::data {

/// Reads, mapped. May be used from several threads at once.
class TokenFile {
 public:
  /// Throws, naming the file and the place, unless both files are there, whole and agree. `prefix` may end in .bin or
  /// .idx. Tokens are not looked at before they are read.
  explicit TokenFile(const std::string& prefix);

  const std::string& prefix() const { return prefix_; }
  /// "uint16", as numpy calls it.
  const char* token_type() const;
  std::int64_t num_sequences() const { return num_sequences_; }
  std::int64_t num_documents() const { return static_cast<std::int64_t>(document_starts_.size()) - 1; }
  std::int64_t num_tokens() const { return document_starts_.back(); }
  /// Of the documents' lengths, the tokens and the mask: of all, up to 64 MiB; in larger files, of samples spread over
  /// them.
  std::uint64_t fingerprint() const;
  /// Tokens of one document, its end of text included.
  std::int64_t document_length(std::int64_t document) const {
    return document_starts_[document + 1] - document_starts_[document];
  }
  /// Tokens [first, first + count) of one document; throws where the range leaves it, and for a 64-bit token that is no
  /// 32-bit integer.
  void read(std::int64_t document, std::int64_t first, std::int64_t count, std::int32_t* out) const;
  std::vector<std::int32_t> read(std::int64_t document) const;

  bool has_mask() const { return mask_ != nullptr; }
  /// Which of those tokens are targets, of a file that has a mask. Throws for what is neither 0 nor 1.
  std::span<const std::uint8_t> mask(std::int64_t document, std::int64_t first, std::int64_t count) const;
  std::vector<std::uint8_t> read_mask(std::int64_t document) const;

 private:
  void read_index(const MappedFile& index);

  std::string prefix_;
  std::unique_ptr<MappedFile> tokens_;
  std::unique_ptr<MappedFile> mask_;
  std::uint8_t token_code_ = 0;  // Megatron's number of the token type
  std::int64_t num_sequences_ = 0;
  std::vector<std::int64_t> document_starts_;  // in tokens, and the end
};

/// How much of a token file there is.
struct TokenFileSize {
  std::int64_t documents = 0;
  std::int64_t tokens = 0;
};

/// Writes documents as they come, to PREFIX.bin.partial and PREFIX.idx.partial; nothing is seen under the final names
/// before finish(). One writer at a time.
class TokenFileWriter {
 public:
  /// Tokens are uint16 where the vocabulary is below 65500 (as Megatron chooses), else int32. With `from`, goes on
  /// where an earlier writer of that vocabulary was at a flush(). Throws where it cannot write.
  TokenFileWriter(const std::string& prefix, std::int64_t vocabulary_size, const TokenFileSize& from = {},
                  bool has_mask = false);
  ~TokenFileWriter();  // without flush() or finish(), the partial files are removed
  TokenFileWriter(const TokenFileWriter&) = delete;
  TokenFileWriter& operator=(const TokenFileWriter&) = delete;

  /// Whether the partial files are there with at least `from` in them, of the given digest.
  static bool can_continue(const std::string& prefix, std::int64_t vocabulary_size, const TokenFileSize& from,
                           std::uint64_t digest, bool has_mask = false);

  /// Throws for an id outside the vocabulary. `is_target`, of a file with a mask, is as long as the document.
  void add(std::span<const std::int32_t> document, std::span<const std::uint8_t> is_target = {});
  /// Brings what was added to the disk; the partial files stay from now on, whatever happens.
  void flush();
  const TokenFileSize& size() const { return size_; }
  /// A hash of all that was added.
  std::uint64_t digest() const;
  /// Flushes and gives the files their names, the index last; a mask that was there before goes.
  void finish();

 private:
  struct Part;  // a partial file
  void write_index(const std::string& path) const;

  std::string prefix_;
  std::int64_t vocabulary_size_;
  TokenFileSize size_;
  std::unique_ptr<Part> tokens_;
  std::unique_ptr<Part> lengths_;  // int32 a document
  std::unique_ptr<Part> mask_;     // null: all tokens are targets
  bool is_kept_ = false;
};

}  // namespace limbeck::data
