// Whether ids mean the same to two tokenizers: that of a text and that of a model, whatever files they come from.
//
//     if (const auto why = vocabulary_difference(*text_tokenizer, *teacher_tokenizer)) fail("{}", *why);
//     std::uint64_t mark = vocabulary_fingerprint(*tokenizer, named_size(*tokenizer));   // of a token file
//
// Compared are the names of tokens, which are the same in every format (but for a space, which some write as U+2581),
// not how a text is cut: any text of known ids is one that a model can read. A name [PAD7] of token 7 is none:
// converters fill vocabularies up with them.
//
// Ids that differ are told by the tokens' names, where both cut ordinary text alike and only their added tokens differ:
//
//     if (!cutting_difference(*text, *model)) match = match_vocabularies(*text, *model, config.vocabulary);
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "data/tokenizers/tokenizer.h"

namespace limbeck::data {

/// Whether the name is only there to fill the vocabulary up.
bool fills_up(std::string_view name, std::int64_t id);

/// One more than the greatest id that has a name.
std::int64_t named_size(const Tokenizer& tokenizer);

/// A number for the names of the first `size` ids: a tokenizer that goes on where another ends has the same for the
/// other's size.
std::uint64_t vocabulary_fingerprint(const Tokenizer& tokenizer, std::int64_t size);

/// What differs where some token of `text` is not the same in `model`: the first and how many. Nothing where all are.
std::optional<std::string> vocabulary_difference(const Tokenizer& text, const Tokenizer& model);

/// What differs where the two do not cut ordinary text into tokens of the same names. Nothing where they do.
std::optional<std::string> cutting_difference(const Tokenizer& text, const Tokenizer& model);

/// Which of a model's tokens is each of a text's.
struct VocabularyMatch {
  std::vector<std::int64_t> ids;                             // -1: the model has no such token
  std::map<std::int64_t, std::vector<std::int64_t>> pieces;  // of those that have a name: what the model cuts it into
  std::int64_t num_moved = 0;                                // that have another id
};

/// By name; of the model's tokens those below `model_size`, of which it has weights.
VocabularyMatch match_vocabularies(const Tokenizer& text, const Tokenizer& model, std::int64_t model_size);

/// How a message shows the name of a token.
std::string shown_token(const Tokenizer& tokenizer, std::int64_t id);

}  // namespace limbeck::data
