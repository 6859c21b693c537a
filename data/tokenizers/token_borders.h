// Where tokens begin and end in the bytes of their text, and where the tokens of two tokenizers meet.
//
//     std::string text = text_of_tokens(*one, ids, /*begins_text=*/true);
//     std::vector<std::int32_t> others = other->encode(text);
//     auto borders = token_borders(*one, ids, text), theirs = token_borders(*other, others, text);
//     if (borders && theirs)
//       for (const CommonSpan& span : common_spans(*borders, *theirs)) ...
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "data/tokenizers/tokenizer.h"

namespace limbeck::data {

/// Whether a token has no bytes in a text: control tokens, and those that begin and end texts.
bool is_without_text(const Tokenizer& tokenizer, std::int32_t id);

/// The bytes that the ids stand for, control tokens aside. Where they do not begin a text, a space in front of the
/// first one is the text's own.
std::string text_of_tokens(const Tokenizer& tokenizer, std::span<const std::int32_t> ids, bool begins_text);

/// Of n ids the n + 1 offsets between which their bytes lie in `text`; a token without text has none. A space that a
/// tokenizer puts in front of a text counts for nothing. Nothing where the ids' bytes are not this text: a normalizer
/// changed it, or something of it has no token.
std::optional<std::vector<std::int64_t>> token_borders(const Tokenizer& tokenizer, std::span<const std::int32_t> ids,
                                                       std::string_view text);

/// The tokens of two tokenizers between two offsets that are borders of both, and no offset between that is.
struct CommonSpan {
  std::int64_t first = 0, count = 0;              // tokens of the one
  std::int64_t other_first = 0, other_count = 0;  // of the other
  std::int64_t bytes = 0;                         // more than 0
  friend bool operator==(const CommonSpan&, const CommonSpan&) = default;
};

/// All of them, in order, of borders of one text, of which a side may lack begin and end. Tokens without bytes are in
/// none, and one that stands within a span leaves it out.
std::vector<CommonSpan> common_spans(std::span<const std::int64_t> borders, std::span<const std::int64_t> others);

}  // namespace limbeck::data
