// The documents of a text in memory, each as the tokens that a model reads of it: what an evaluation is of.
//
//     std::vector<Document> documents = read_documents({"notes", "articles.jsonl.zst"}, *tokenizer, {.threads = 2});
//     std::vector<Document> others = documents_of(TokenFile("tokens/web"), tokenizer.get());
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "data/text/text_source.h"
#include "data/text/token_file.h"
#include "data/tokenizers/tokenizer.h"

namespace limbeck::data {

/// The tokens of a document's text, the end of text behind it, and the start of text, if the tokenizer has one, before
/// it, unless the text begins and ends with them itself: a chat template may have put both there.
std::vector<std::int32_t> document_ids(const Tokenizer& tokenizer, std::string_view text, bool parse_special,
                                       EncodeCounts* counts = nullptr);

struct Document {
  std::string name;                                  // FILE, FILE:LINE, or PREFIX:NUMBER in a token file, from 0
  std::vector<std::int32_t> ids;                     // as document_ids gives them, or as the token file has them
  std::optional<std::int64_t> bytes = std::nullopt;  // of its text in UTF-8, repaired; nothing where that is not known
  std::int64_t repaired_sequences = 0;               // ill-formed UTF-8 that became U+FFFD
};

struct DocumentOptions {
  int threads = 1;
  TextFormat format = TextFormat::Auto;
  std::string field = "text";  // of JSON lines, as JsonField takes it
  bool parse_special = false;  // names of special tokens in the text become those tokens
};

/// Every document of `paths` in order, the same for any number of threads; empty ones are left out. Throws, naming file
/// (and line), for what cannot be read, and where there is no document.
std::vector<Document> read_documents(const std::vector<std::string>& paths, const Tokenizer& tokenizer,
                                     const DocumentOptions& options);

/// Those of a token file; their bytes are those that the tokens between start and end of text stand for, not known
/// without a tokenizer. Throws, naming the token file, for an id outside the tokenizer's vocabulary, and where there is
/// no document.
std::vector<Document> documents_of(const TokenFile& file, const Tokenizer* tokenizer);

/// Of names and tokens.
std::uint64_t fingerprint(const std::vector<Document>& documents);

/// The bytes that a document's tokens stand for, without start and end of text.
std::int64_t bytes_between_ends(const Document& document, const Tokenizer& tokenizer);

/// `ids` without a start of text before and an end of text behind: what two documents have in common that say the same.
std::span<const std::int32_t> inner_ids(std::span<const std::int32_t> ids, const Tokenizer& tokenizer);

}  // namespace limbeck::data
