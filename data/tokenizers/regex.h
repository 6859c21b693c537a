// A regular expression as Hugging Face's tokenizers write it (Oniguruma, Ruby's syntax), run by PCRE2.
//
//     Regex words(R"(\p{L}+|\s+(?!\S))", "tokenizer.json: pre_tokenizer.pattern");
//     Regex::Scratch scratch = words.scratch();                       // one a thread
//     if (auto found = words.find(text, 0, scratch)) text.substr(found->begin, found->end - found->begin);
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>

struct pcre2_real_code_8;
struct pcre2_real_match_context_8;
struct pcre2_real_match_data_8;

namespace limbeck::data {

/// The same expression for PCRE2: general categories as of Unicode 16, white space as Oniguruma has it. Throws, naming
/// `where` and the construct, for what the two understand differently or only one has.
std::string pcre2_pattern(std::string_view oniguruma, std::string_view where);

/// A pattern that matches exactly `text`.
std::string literal_pattern(std::string_view text);

class Regex {
 public:
  /// Throws, naming `where`, for a pattern that cannot be compiled or could match nothing.
  Regex(std::string_view oniguruma, std::string_view where);

  using Scratch = std::shared_ptr<pcre2_real_match_data_8>;
  Scratch scratch() const;

  struct Match {
    std::size_t begin;
    std::size_t end;
  };
  /// The first match in valid UTF-8 at or after `from`. Throws where that takes more steps than PCRE2's limit of ten
  /// million from one place.
  std::optional<Match> find(std::string_view text, std::size_t from, const Scratch& scratch) const;

 private:
  std::shared_ptr<pcre2_real_code_8> code_;
  std::shared_ptr<pcre2_real_match_context_8> limits_;
};

}  // namespace limbeck::data
