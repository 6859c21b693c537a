// How a byte-level BPE cuts text into words before it merges: stages, as in a tokenizer.json, or as the rules that a
// GGUF names in tokenizer.ggml.pre.
//
//     Pretokenizer pretokenizer(pretokenizer_rules("smollm", "model.gguf").stages, "model.gguf");
//     Pretokenizer::Scratch scratch = pretokenizer.scratch();   // one a thread
//     pretokenizer.split("in 1999", scratch, [](std::string_view word) { ... });   // "in", " ", "1", "9", "9", "9"
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "data/tokenizers/regex.h"

namespace limbeck::data {

/// What becomes of a match (Hugging Face's SplitDelimiterBehavior): a piece of its own, dropped, put to the piece
/// before it or after it, or made one piece with the matches beside it.
enum class SplitBehavior : std::uint8_t { Isolated, Removed, MergedWithPrevious, MergedWithNext, Contiguous };

/// Cuts every piece of the stage before it. Matches of `pattern` and what lies between them are pieces; `invert` takes
/// the one for the other. Without a pattern the piece stays whole: each space in it becomes `space`, if that is not
/// empty, and `prefix` is put in front unless it stands there.
struct PretokenizerStage {
  std::string pattern = {};  // Oniguruma's syntax
  SplitBehavior behavior = SplitBehavior::Isolated;
  bool invert = false;
  std::string space = {};
  std::string prefix = {};
  bool only_first = false;  // `prefix` only where a text begins
  friend bool operator==(const PretokenizerStage&, const PretokenizerStage&) = default;
};

/// What Hugging Face's Digits cuts out with individual_digits: Rust's char::is_numeric, whose edition of Unicode is 17,
/// that of the other rules 16.
inline constexpr std::string_view digit_pattern = R"([\p{N}\x{11de0}-\x{11de9}\x{16ff4}-\x{16ff6}])";
/// The words of its ByteLevel with use_regex (encoder.py of the GPT-2 release).
inline constexpr std::string_view gpt2_pattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

/// The rules behind a name.
struct PretokenizerRules {
  std::vector<std::string_view> names;  // values of tokenizer.ggml.pre
  std::vector<PretokenizerStage> stages;
  bool ignore_merges = false;  // a word that is a token is that token, whatever the merges say (Llama 3)
  bool is_nfc = false;         // text is brought to Unicode's form C first (Qwen)
  bool starts_texts = false;   // a text has the begin-of-sequence token in front, unless the file says otherwise
};

/// All names that pretokenizer_rules knows.
std::vector<std::string> pretokenizer_names();

/// The rules of that name; throws, naming `where` and the known names, for an unknown one.
const PretokenizerRules& pretokenizer_rules(std::string_view name, std::string_view where);
/// The name under which GGUF files know the same rules; nothing where they have none.
std::optional<std::string> pretokenizer_name(std::span<const PretokenizerStage> stages, bool ignore_merges,
                                             bool is_nfc);

class Pretokenizer {
 public:
  /// Throws, naming `where`, for a pattern that cannot be used.
  Pretokenizer(std::span<const PretokenizerStage> stages, std::string_view where);

  using Scratch = std::vector<Regex::Scratch>;
  Scratch scratch() const;

  /// Calls `use` with each word of valid UTF-8 in order. `begins_text`: no token stands before it.
  template <class F>
  void split(std::string_view text, Scratch& scratch, F&& use, bool begins_text = true) const {
    split_from(0, {text, begins_text}, scratch, std::function<void(std::string_view)>(std::ref(use)));
  }

 private:
  using Use = std::function<void(std::string_view)>;
  struct Stage {
    PretokenizerStage rules;
    std::optional<Regex> regex;  // none without a pattern
  };
  struct Piece {
    std::string_view text;
    bool begins_text = false;
    Piece part(std::size_t begin, std::size_t end) const {
      return {text.substr(begin, end - begin), begins_text && begin == 0};
    }
  };
  void split_from(std::size_t stage, const Piece& piece, Scratch& scratch, const Use& use) const;
  void split_isolated(std::size_t stage, const Piece& piece, Scratch& scratch, const Use& use) const;
  void split_otherwise(std::size_t stage, const Piece& piece, Scratch& scratch, const Use& use) const;

  std::vector<Stage> stages_;
};

}  // namespace limbeck::data
