// A tokenizer with fewer tokens, that still cuts a text as the whole one does wherever it is of the tokens that stay.
//
//     const SmallerVocabulary smaller = smaller_vocabulary(bpe->description(), counts, 1);
//     BpeTokenizer tokenizer(smaller.description, "teacher.gguf");
//     smaller.ids[7];                                     // which token of the whole vocabulary 7 is
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "data/tokenizers/tokenizer_bpe.h"

namespace limbeck::data {

struct SmallerVocabulary {
  BpeDescription description;
  std::vector<std::int64_t> ids = {};  // ascending: of each token, its id in the whole vocabulary
};

/// Keeps the tokens with `counts` of at least `least`, and what the tokenizer cannot do without: those that these are
/// merged from, by any merge, and so on; those of single bytes; added tokens, and those with a part of their own (ends
/// of a text, ...). Merges stay that make a token which stays, in their order. So a word is merged as by the whole
/// tokenizer, where all of its tokens stay: each merge that was done is there, at each step the first that can be done
/// is the same, and none is there that was not.
SmallerVocabulary smaller_vocabulary(const BpeDescription& whole, std::span<const std::int64_t> counts,
                                     std::int64_t least);

}  // namespace limbeck::data
