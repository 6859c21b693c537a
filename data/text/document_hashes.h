// Which documents a run learned from, as hashes of their tokens: kept in the run directory, so that a text that is
// measured later can be told from one that was trained on, wherever text and token files are by then.
//
//     write_document_hashes(run / "training_documents.xxh3", {.tokenizer = mark, .hashes = sorted});
//     const DocumentHashes known = read_document_hashes(run / "training_documents.xxh3");
//     known.contains(document_hash(document.ids, *tokenizer));
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <vector>

#include "data/tokenizers/tokenizer.h"

namespace limbeck::data {

/// XXH3 of the tokens, without start and end of text.
std::uint64_t document_hash(std::span<const std::int32_t> ids, const Tokenizer& tokenizer);

struct DocumentHashes {
  std::uint64_t tokenizer = 0;        // vocabulary_fingerprint of all named tokens: hashes of other ids are others
  std::vector<std::uint64_t> hashes;  // rising, each once

  bool contains(std::uint64_t hash) const;
};

/// A line of text, then the numbers, 8 bytes each, little-endian: tokenizer, how many, hashes.
void write_document_hashes(const std::filesystem::path& file, const DocumentHashes& documents);
/// Throws, naming the file, where it is not what write_document_hashes writes.
DocumentHashes read_document_hashes(const std::filesystem::path& file);

}  // namespace limbeck::data
