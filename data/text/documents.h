// The documents of a text in memory, each as the tokens that a model reads of it: what an evaluation is of.
//
//     std::vector<Document> documents = read_documents({"notes", "articles.jsonl.zst"}, *tokenizer, {.threads = 2});
//     std::vector<Document> others = documents_of(TokenFile("tokens/web"), tokenizer.get());
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "data/text/json_lines.h"
#include "data/text/text_source.h"
#include "data/text/token_file.h"
#include "data/tokenizers/chat_template.h"
#include "data/tokenizers/tokenizer.h"

namespace limbeck::data {

/// The tokens of a document's text, the end of text behind it, and the start of text, if the tokenizer has one, before
/// it, unless the text begins and ends with them itself: a chat template may have put both there.
std::vector<std::int32_t> document_ids(const Tokenizer& tokenizer, std::string_view text, bool parse_special,
                                       EncodeCounts* counts = nullptr);

/// A document's tokens, and what they were made of.
struct EncodedDocument {
  std::vector<std::int32_t> ids = {};
  std::vector<std::uint8_t> is_target = {};  // as ChatTokens::is_target; empty: all tokens but the first are
  std::int64_t bytes = 0;                    // of its text as it was, or of the contents of its messages
  std::int64_t utf8_bytes = 0;               // of its text, repaired
  std::int64_t line = 0;                     // in its file, from 1; 0: it is the file
  EncodeCounts counts = {};
};

/// Makes documents of text: of plain files and lines of JSON as document_ids does, of conversations by the tokenizer's
/// chat template. Of a preference two, the chosen response behind its prompt and the rejected one behind it.
class DocumentEncoder {
 public:
  /// Refers to the tokenizer. `field` as JsonField takes it. Throws where conversations are to be read and the
  /// tokenizer has no chat template that is known, and a UsageError where names in them were to become tokens, and for
  /// a field of preferences, whose fields have fixed names.
  DocumentEncoder(const Tokenizer& tokenizer, TextFormat format, const std::string& field, bool parse_special);
  /// Whether of each document only some tokens are targets.
  bool has_targets() const { return chat_.has_value() || has_pairs_; }
  bool has_pairs() const { return has_pairs_; }
  /// The name of the chat template of conversations; empty for other text.
  std::string chat_name() const { return chat_ && !has_pairs_ ? std::string(chat_->name()) : ""; }

  using Use = std::function<void(EncodedDocument&&)>;
  /// Those of JSON lines; empty ones are left out. What is thrown names file and line.
  void encode_lines(const LineBlock& block, const std::string& file, const Use& use) const;
  /// That of a plain file's text.
  void encode_text(std::string_view text, const std::string& file, const Use& use) const;

 private:
  void encode_text(std::string_view text, std::int64_t line, const Use& use) const;
  void encode_pair(std::string_view line, const std::string& file, std::int64_t number, const Use& use) const;
  EncodedDocument encode_response(const std::string& prompt, const std::string& response) const;

  const Tokenizer& tokenizer_;
  JsonField field_;
  bool parse_special_;
  bool has_pairs_;
  std::optional<ChatTemplate> chat_;  // of pairs too, where it is known
};

struct Document {
  std::string name;                          // FILE, FILE:LINE, or PREFIX:NUMBER in a token file, from 0
  std::vector<std::int32_t> ids;             // as document_ids gives them, or as the token file has them
  std::vector<std::uint8_t> is_target = {};  // as that of EncodedDocument
  std::optional<std::int64_t> bytes =
      std::nullopt;  // of its text in UTF-8, repaired; nothing where that is not known, nor of conversations
  std::int64_t repaired_sequences = 0;  // ill-formed UTF-8 that became U+FFFD
};

struct DocumentOptions {
  int threads = 1;
  TextFormat format = TextFormat::Auto;
  std::string field = "text";  // of JSON lines (field_of), as JsonField takes it
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
