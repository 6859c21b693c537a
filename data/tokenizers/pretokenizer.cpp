#include "data/tokenizers/pretokenizer.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <utility>

#include "core/error.h"

namespace limbeck::data {

using core::fail;

namespace {

// The splits in the tokenizer.json of Meta-Llama-3, Qwen2, DeepSeek-V3, DeepSeek-LLM and -V2, gpt-oss and Mistral-Nemo.
constexpr const char* llama3_words =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr const char* qwen2_words =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr const char* deepseek3_words =
    R"([!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

constexpr const char* deepseek_words =
    R"(\s?[A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛὝὟ-ώᾀ-ᾴᾶ-ᾼιῂ-ῄῆ-ῌῐ-ΐῖ-Ίῠ-Ῥῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝℤΩℨK-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃]+)";
constexpr const char* o200k_words =
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr const char* tekken_words =
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

const std::vector<PretokenizerRules>& table() {
  const auto digits = PretokenizerStage{.pattern = std::string(digit_pattern)};
  const auto gpt2 = PretokenizerStage{.pattern = std::string(gpt2_pattern)};
  static const std::vector<PretokenizerRules> rules = {
      {.names = {"smollm", "starcoder", "refact", "command-r"}, .stages = {digits, gpt2}},
      {.names = {"gpt-2"}, .stages = {gpt2}},
      {.names = {"llama-bpe", "llama3", "llama-v3"},
       .stages = {{.pattern = llama3_words}},
       .ignore_merges = true,
       .starts_texts = true},
      {.names = {"qwen2", "deepseek-r1-qwen"}, .stages = {{.pattern = qwen2_words}}, .is_nfc = true},
      {.names = {"deepseek-v3"},
       .stages = {{.pattern = R"(\p{N}{1,3})"}, {.pattern = "[一-龥\u3040-ゟ゠-ヿ]+"}, {.pattern = deepseek3_words}}},
      {.names = {"deepseek-llm"},
       .stages = {{.pattern = "[\r\n]"},
                  {.pattern = deepseek_words},
                  {.pattern = R"(\s?[!-/:-~！-／：-～‘-‟　-。]+)"},
                  {.pattern = R"(\s+$)"},
                  {.pattern = "[一-龥ࠀ-一가-\ud7ff]+"},
                  digits}},
      {.names = {"deepseek-coder"},
       .stages = {{.pattern = "[\r\n]"},
                  {.pattern = R"(\s?\p{L}+)"},
                  {.pattern = R"(\s?\p{P}+)"},
                  {.pattern = "[一-龥ࠀ-一가-\ud7ff]+"},
                  digits}},
      {.names = {"gpt-4o", "llama4"}, .stages = {{.pattern = o200k_words}}},
      {.names = {"tekken"}, .stages = {{.pattern = tekken_words}}, .ignore_merges = true, .starts_texts = true},
      {.names = {"dbrx", "smaug-bpe"}, .stages = {{.pattern = llama3_words}}},
      {.names = {"olmo"}, .stages = {gpt2}, .is_nfc = true},
      {.names = {"bytes"}, .stages = {}},  // Limbeck's byte tokenizer: no words
  };
  return rules;
}

/// The same stage in one way of writing it: line ends as escapes, and where matches cover the text, nothing is left to
/// be dropped.
PretokenizerStage canonical(PretokenizerStage stage) {
  for (const auto& [character, escape] : {std::pair{'\r', "\\r"}, std::pair{'\n', "\\n"}})
    for (std::size_t at = stage.pattern.find(character); at != std::string::npos; at = stage.pattern.find(character))
      stage.pattern.replace(at, 1, escape);
  if (stage.behavior == SplitBehavior::Removed && stage.invert && stage.pattern.ends_with("|\\s+")) {
    stage.behavior = SplitBehavior::Isolated;
    stage.invert = false;
  }
  return stage;
}

/// A piece by the rules of a stage without a pattern.
std::string changed(const PretokenizerStage& rules, std::string_view text, bool begins_text) {
  std::string result;
  for (const char c : text)
    if (c == ' ' && !rules.space.empty())
      result += rules.space;
    else
      result += c;
  if ((begins_text || !rules.only_first) && !result.starts_with(rules.prefix)) result.insert(0, rules.prefix);
  return result;
}

}  // namespace

std::vector<std::string> pretokenizer_names() {
  std::vector<std::string> result;
  for (const auto& rules : table()) result.insert(result.end(), rules.names.begin(), rules.names.end());
  return result;
}

const PretokenizerRules& pretokenizer_rules(std::string_view name, std::string_view where) {
  for (const auto& rules : table())
    if (std::find(rules.names.begin(), rules.names.end(), name) != rules.names.end()) return rules;
  fail("{} is {}, expected one of {}", where, name, fmt::join(pretokenizer_names(), ", "));
}

std::optional<std::string> pretokenizer_name(std::span<const PretokenizerStage> stages, bool ignore_merges,
                                             bool is_nfc) {
  const auto all_canonical = [](std::span<const PretokenizerStage> from) {
    std::vector<PretokenizerStage> to;
    for (const PretokenizerStage& stage : from) to.push_back(canonical(stage));
    return to;
  };
  const std::vector<PretokenizerStage> given = all_canonical(stages);
  for (const auto& rules : table())
    if (!given.empty() && given == all_canonical(rules.stages) && rules.ignore_merges == ignore_merges &&
        rules.is_nfc == is_nfc)
      return std::string(rules.names.front());
  return std::nullopt;
}

Pretokenizer::Pretokenizer(std::span<const PretokenizerStage> stages, std::string_view where) {
  for (const auto& stage : stages)
    stages_.push_back({stage, stage.pattern.empty() ? std::nullopt : std::optional(Regex(stage.pattern, where))});
}

Pretokenizer::Scratch Pretokenizer::scratch() const {
  Scratch result;
  for (const auto& stage : stages_) result.push_back(stage.regex ? stage.regex->scratch() : nullptr);
  return result;
}

void Pretokenizer::split_from(std::size_t stage, const Piece& piece, Scratch& scratch, const Use& use) const {
  if (piece.text.empty()) return;
  if (stage == stages_.size()) return use(piece.text);
  const PretokenizerStage& rules = stages_[stage].rules;
  if (rules.pattern.empty())
    split_from(stage + 1, {changed(rules, piece.text, piece.begins_text), piece.begins_text}, scratch, use);
  else if (rules.behavior == SplitBehavior::Isolated)
    split_isolated(stage, piece, scratch, use);
  else
    split_otherwise(stage, piece, scratch, use);
}

void Pretokenizer::split_isolated(std::size_t stage, const Piece& piece, Scratch& scratch, const Use& use) const {
  const std::string_view text = piece.text;
  std::size_t done = 0;
  while (done < text.size()) {
    const auto found = stages_[stage].regex->find(text, done, scratch[stage]);
    if (!found) break;
    split_from(stage + 1, piece.part(done, found->begin), scratch, use);
    split_from(stage + 1, piece.part(found->begin, found->end), scratch, use);
    done = found->end;
  }
  split_from(stage + 1, piece.part(done, text.size()), scratch, use);
}

void Pretokenizer::split_otherwise(std::size_t stage, const Piece& piece, Scratch& scratch, const Use& use) const {
  const auto& [rules, regex] = stages_[stage];
  const std::string_view text = piece.text;
  struct Part {
    std::size_t begin;
    std::size_t end;
    bool is_match;  // of the last part of the piece (MergedWithNext: of the first)
  };
  std::vector<Part> parts;
  std::size_t done = 0;
  for (auto found = regex->find(text, 0, scratch[stage]); found; found = regex->find(text, done, scratch[stage])) {
    if (found->begin > done) parts.push_back({done, found->begin, rules.invert});
    parts.push_back({found->begin, found->end, !rules.invert});
    done = found->end;
    if (done == text.size()) break;
  }
  if (done < text.size()) parts.push_back({done, text.size(), rules.invert});

  std::vector<Part> pieces;
  const bool backwards = rules.behavior == SplitBehavior::MergedWithNext;
  if (backwards) std::reverse(parts.begin(), parts.end());
  for (const Part& part : parts) {
    const bool previous_match = !pieces.empty() && pieces.back().is_match;
    bool joins = false;
    if (rules.behavior == SplitBehavior::Removed) {
      if (part.is_match) continue;
    } else if (rules.behavior == SplitBehavior::Contiguous) {
      joins = part.is_match == previous_match;
    } else {
      joins = part.is_match && !previous_match;
    }
    if (joins && !pieces.empty())
      pieces.back() = {std::min(pieces.back().begin, part.begin), std::max(pieces.back().end, part.end), part.is_match};
    else
      pieces.push_back(part);
  }
  if (backwards) std::reverse(pieces.begin(), pieces.end());
  for (const Part& part : pieces) split_from(stage + 1, piece.part(part.begin, part.end), scratch, use);
}

}  // namespace limbeck::data
