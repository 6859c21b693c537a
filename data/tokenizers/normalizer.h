// What a tokenizer does to text before it cuts it: Unicode normalisation forms and replacements, as in the "normalizer"
// of a tokenizer.json.
//
//     Normalizer normalizer({{{NormalizerStep::Kind::Nfc}}}, "tokenizer.json");
//     normalizer.apply("e\u0301");                                             // "é"
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "data/tokenizers/regex.h"

namespace limbeck::data {

enum class UnicodeForm : std::uint8_t { Nfc, Nfd, Nfkc, Nfkd };

/// Valid UTF-8 in that form (Unicode Standard Annex 15). Characters that Hugging Face's library does not know, which
/// are of Unicode 9 to 15, stay as they are: vocabularies were made with it.
std::string unicode_form(std::string_view text, UnicodeForm form);

struct NormalizerStep {
  enum class Kind : std::uint8_t { Form, Prepend, Replace };
  Kind kind = Kind::Form;
  UnicodeForm form = UnicodeForm::Nfc;
  std::string pattern = {};  // of Replace, in Oniguruma's syntax
  std::string content = {};  // what Prepend puts before a text that is not empty, and Replace in place of each match
  friend bool operator==(const NormalizerStep&, const NormalizerStep&) = default;
};

/// What a text of `size` bytes may become: replacements one after the other could grow it without end.
std::size_t most_bytes_of(std::size_t size);

class Normalizer {
 public:
  /// Throws, naming `where`, for a pattern that cannot be used.
  Normalizer(std::span<const NormalizerStep> steps, std::string_view where);
  bool empty() const { return steps_.empty(); }
  /// Of valid UTF-8. Throws where the text grows out of all proportion.
  std::string apply(std::string_view text) const;

 private:
  struct Step {
    NormalizerStep rule;
    std::optional<Regex> regex;  // of Replace
  };
  std::string where_;
  std::vector<Step> steps_;
};

}  // namespace limbeck::data
