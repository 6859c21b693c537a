// Whether ids mean the same to two tokenizers: that of a text and that of a model, whatever files they come from.
//
//     if (const auto why = vocabulary_difference(*text_tokenizer, *teacher_tokenizer)) fail("{}", *why);
//     std::uint64_t mark = vocabulary_fingerprint(*tokenizer, named_size(*tokenizer));   // of a token file
//
// Compared are the names of tokens, which are the same in every format (but for a space, which some write as U+2581),
// not how a text is cut: any text of known ids is one that a model can read. A name [PAD7] of token 7 is none:
// converters fill vocabularies up with them.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "data/tokenizers/tokenizer.h"

namespace limbeck::data {

/// One more than the greatest id that has a name.
std::int64_t named_size(const Tokenizer& tokenizer);

/// A number for the names of the first `size` ids: a tokenizer that goes on where another ends has the same for the
/// other's size.
std::uint64_t vocabulary_fingerprint(const Tokenizer& tokenizer, std::int64_t size);

/// What differs where some token of `text` is not the same in `model`: the first and how many. Nothing where all are.
std::optional<std::string> vocabulary_difference(const Tokenizer& text, const Tokenizer& model);

}  // namespace limbeck::data
