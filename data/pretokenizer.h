// How a byte-level BPE cuts text into words before it merges: the splitting rules that a GGUF names in
// tokenizer.ggml.pre.
//
//     Pretokenizer pretokenizer("smollm");
//     Pretokenizer::Scratch scratch = pretokenizer.scratch();   // one a thread
//     pretokenizer.split("in 1999", scratch, [](std::string_view word) { ... });   // "in", " ", "1", "9", "9", "9"
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

struct pcre2_real_code_8;
struct pcre2_real_match_data_8;

namespace limbeck::data {

/// One set of rules. Each stage cuts every piece of the stage before it: matches and what lies between them are pieces.
struct PretokenizerRules {
  std::vector<std::string_view> names;   // values of tokenizer.ggml.pre
  std::vector<std::string_view> stages;  // regular expressions
  bool ignore_merges;                    // a word that is a token is that token, whatever the merges say (Llama 3)
};

/// The rules of that name; throws, naming `where` and the known names, for an unknown one.
const PretokenizerRules& pretokenizer_rules(std::string_view name, std::string_view where);

/// The same rules as the JSON of a Hugging Face tokenizer.json's "pre_tokenizer".
std::string hugging_face_pretokenizer(const PretokenizerRules& rules);

class Pretokenizer {
 public:
  explicit Pretokenizer(const PretokenizerRules& rules);
  ~Pretokenizer();
  Pretokenizer(Pretokenizer&&) noexcept;
  Pretokenizer(const Pretokenizer&) = delete;
  Pretokenizer& operator=(const Pretokenizer&) = delete;

  using Scratch = std::vector<std::shared_ptr<pcre2_real_match_data_8>>;
  Scratch scratch() const;

  /// Calls `use` with each word of valid UTF-8 in order; together they are the text.
  template <class F>
  void split(std::string_view text, Scratch& scratch, F&& use) const {
    split_from(0, text, scratch, std::function<void(std::string_view)>(std::ref(use)));
  }

 private:
  void split_from(std::size_t stage, std::string_view text, Scratch& scratch,
                  const std::function<void(std::string_view)>& use) const;

  std::vector<pcre2_real_code_8*> stages_;
};

}  // namespace limbeck::data
