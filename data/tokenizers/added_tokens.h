// Tokens that are found in the text itself, before it is cut into words: "added tokens" of a tokenizer.json, control
// and user-defined tokens of a GGUF.
//
//     AddedTokens tokens({{"<|im_end|>", {.id = 2, .special = true}}});
//     tokens.split(text, NamesInText(/*parse_special=*/true), [](std::string_view ordinary) {...},
//                  [](std::int32_t id, std::string_view name) {...});
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "data/tokenizers/marked_text.h"

namespace limbeck::data {

struct AddedToken {
  std::int32_t id = 0;
  bool single_word = false;  // not within a word
  bool lstrip = false;       // takes the white space before it
  bool rstrip = false;       // and after it
  bool normalized = false;   // is looked for in the normalised text
  bool special = false;      // is text unless special tokens are parsed
  bool in_model = true;      // is a token of the model's own vocabulary too
  friend bool operator==(const AddedToken&, const AddedToken&) = default;
};

/// Bytes of white space (White_Space of Unicode) that valid UTF-8 begins with, and that it ends with.
std::size_t space_in_front(std::string_view text);
std::size_t space_at_end(std::string_view text);

class AddedTokens {
 public:
  struct Entry {
    std::string text;  // not empty
    AddedToken token;
  };
  AddedTokens() = default;
  /// Of equal texts the first counts.
  explicit AddedTokens(std::vector<Entry> entries);
  bool empty() const { return entries_.empty(); }

  /// Cuts `text` at the leftmost, then longest tokens, as Hugging Face's AddedVocabulary: calls use(piece) for what
  /// lies between, if not empty, and found(id, piece) for each token, in order. Returns how many names of special
  /// tokens there are, be they taken as tokens or as text; of a marked text only those that are text.
  template <class Use, class Found>
  std::int64_t split(std::string_view text, const NamesInText& names, Use&& use, Found&& found) const {
    std::int64_t special_names = 0;
    std::size_t done = 0;
    for (std::size_t at = 0; !entries_.empty() && at < text.size();) {
      const Entry* entry = starts_[static_cast<unsigned char>(text[at])] ? longest(text.substr(at)) : nullptr;
      if (entry == nullptr) {
        ++at;
        continue;
      }
      Range range{at, at + entry->text.size()};
      at = range.end;
      const bool is_taken = names.takes(entry->token.id, entry->token.special, range.begin, range.end);
      if (entry->token.special && names.is_told(is_taken)) ++special_names;
      if (!is_taken) continue;
      if (range.end <= done || !adjust(entry->token, text, done, range)) continue;  // the token before has taken it
      if (done < range.begin) use(text.substr(done, range.begin - done));
      found(entry->token.id, text.substr(range.begin, range.end - range.begin));
      done = range.end;
    }
    if (done < text.size()) use(text.substr(done));
    return special_names;
  }

 private:
  struct Range {
    std::size_t begin;
    std::size_t end;
  };
  const Entry* longest(std::string_view text) const;
  /// Widens the range by white space; false where the token may not stand there.
  static bool adjust(const AddedToken& token, std::string_view text, std::size_t done, Range& range);

  std::vector<Entry> entries_;  // sorted by text
  std::array<bool, 256> starts_{};
};

}  // namespace limbeck::data
