// Which tokenizer made a token file, in PREFIX.meta.json beside the two files of Megatron's format, which do not say.
// Token files from elsewhere have none.
//
//     write_token_meta("tokens/web", meta_of(*tokenizer, /*parse_special=*/false, writer.size()));
//     TokenFile file("tokens/web");
//     if (const auto meta = read_token_meta(file); meta && !is_made_by(*meta, *tokenizer)) fail(...);
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "data/text/token_file.h"
#include "data/tokenizers/tokenizer.h"

namespace limbeck::data {

struct TokenMeta {
  std::int64_t vocabulary = 0;     // tokens with a name
  std::uint64_t fingerprint = 0;   // vocabulary_fingerprint of them
  bool parse_special = false;      // names of special tokens in the text became those tokens
  TokenFileSize size = {};         // of the token file that is meant
  std::string chat_template = {};  // the name of that by which conversations became tokens; empty for other text
  bool has_pairs = false;          // documents 2i and 2i + 1 are a chosen and a rejected response to one prompt
};

TokenMeta meta_of(const Tokenizer& tokenizer, bool parse_special, const TokenFileSize& size);
void write_token_meta(const std::string& prefix, const TokenMeta& meta);

/// Nothing where there is none, or one of another token file that was there before. Throws, naming the file, where it
/// is not what Limbeck writes, and where it is of conversations or pairs, of which the file has no mask.
std::optional<TokenMeta> read_token_meta(const TokenFile& file);

/// Whether ids mean the same to the tokenizer, which may have more of them.
bool is_made_by(const TokenMeta& meta, const Tokenizer& tokenizer);

}  // namespace limbeck::data
