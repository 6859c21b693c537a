#include "data/pretokenizer.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "core/error.h"

namespace limbeck::data {

using core::check;
using core::fail;

namespace {

constexpr std::string_view digits = R"(\p{N})";
// GPT-2's own, which Hugging Face's ByteLevel applies (encoder.py of the GPT-2 release).
constexpr std::string_view gpt2_words = R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";
// The splits in the tokenizer.json of Meta-Llama-3 and of Qwen2.
constexpr std::string_view llama3_words =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view qwen2_words =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

const std::vector<PretokenizerRules>& table() {
  static const std::vector<PretokenizerRules> rules = {
      {{"smollm"}, {digits, gpt2_words}, false},
      {{"gpt-2"}, {gpt2_words}, false},
      {{"llama-bpe", "llama3", "llama-v3"}, {llama3_words}, true},
      {{"qwen2", "deepseek-r1-qwen"}, {qwen2_words}, false},
      {{"bytes"}, {}, false},  // Limbeck's byte tokenizer: no words
  };
  return rules;
}

/// PCRE2's \s is not the oracle's: it also matches U+180E. So \s and \S are spelled out (Unicode's White_Space).
std::string with_plain_space(std::string_view pattern) {
  constexpr std::string_view space =
      R"(\t-\r\x20\x{85}\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000})";
  std::string result;
  bool in_class = false;
  for (std::size_t i = 0; i < pattern.size(); ++i) {
    const char c = pattern[i];
    if (c != '\\') {
      if (c == '[') in_class = true;
      if (c == ']') in_class = false;
      result += c;
      continue;
    }
    const char escaped = pattern[++i];
    if (escaped == 's')
      result += in_class ? std::string(space) : fmt::format("[{}]", space);
    else if (escaped == 'S')
      result += fmt::format("[^{}]", space);
    else
      result += {'\\', escaped};
  }
  return result;
}

}  // namespace

const PretokenizerRules& pretokenizer_rules(std::string_view name, std::string_view where) {
  std::vector<std::string_view> known;
  for (const auto& rules : table()) {
    if (std::find(rules.names.begin(), rules.names.end(), name) != rules.names.end()) return rules;
    known.insert(known.end(), rules.names.begin(), rules.names.end());
  }
  fail("{}: tokenizer.ggml.pre is {}, expected one of {}", where, name, fmt::join(known, ", "));
}

std::string hugging_face_pretokenizer(const PretokenizerRules& rules) {
  auto steps = nlohmann::json::array();
  bool use_regex = false;  // ByteLevel applies GPT-2's words itself
  for (const auto stage : rules.stages) {
    if (stage == gpt2_words)
      use_regex = true;
    else if (stage == digits)
      steps.push_back({{"type", "Digits"}, {"individual_digits", true}});
    else
      steps.push_back(
          {{"type", "Split"}, {"pattern", {{"Regex", stage}}}, {"behavior", "Isolated"}, {"invert", false}});
  }
  steps.push_back(
      {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", use_regex}});
  return nlohmann::json({{"type", "Sequence"}, {"pretokenizers", steps}}).dump();
}

Pretokenizer::Pretokenizer(const PretokenizerRules& rules) {
  for (const auto stage : rules.stages) {
    const std::string pattern = with_plain_space(stage);
    int error = 0;
    PCRE2_SIZE offset = 0;
    pcre2_code* code = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(),
                                     PCRE2_UTF | PCRE2_UCP, &error, &offset, nullptr);
    check(code != nullptr, "tokenizer: PCRE2 error {} at byte {} of the pattern {}", error, offset, pattern);
    pcre2_jit_compile(code, PCRE2_JIT_COMPLETE);  // where it cannot, pcre2_match interprets
    stages_.push_back(code);
  }
}

Pretokenizer::~Pretokenizer() {
  for (auto* code : stages_) pcre2_code_free(code);
}

Pretokenizer::Pretokenizer(Pretokenizer&& other) noexcept : stages_(std::move(other.stages_)) { other.stages_.clear(); }

Pretokenizer::Scratch Pretokenizer::scratch() const {
  Scratch result;
  for (auto* code : stages_)
    result.emplace_back(pcre2_match_data_create_from_pattern(code, nullptr), pcre2_match_data_free);
  return result;
}

void Pretokenizer::split_from(std::size_t stage, std::string_view text, Scratch& scratch,
                              const std::function<void(std::string_view)>& use) const {
  if (text.empty()) return;
  if (stage == stages_.size()) return use(text);
  auto* match = scratch[stage].get();
  const auto* bounds = pcre2_get_ovector_pointer(match);
  std::size_t done = 0;
  while (done < text.size()) {
    const int found = pcre2_match(stages_[stage], reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), done,
                                  PCRE2_NO_UTF_CHECK, match, nullptr);
    if (found == PCRE2_ERROR_NOMATCH) break;
    check(found > 0, "tokenizer: PCRE2 error {} in a text of {} bytes", found, text.size());
    split_from(stage + 1, text.substr(done, bounds[0] - done), scratch, use);
    split_from(stage + 1, text.substr(bounds[0], bounds[1] - bounds[0]), scratch, use);
    done = bounds[1];
  }
  split_from(stage + 1, text.substr(done), scratch, use);
}

}  // namespace limbeck::data
