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

// Digits(individual_digits); its edition of Unicode is 17, that of the other rules 16.
constexpr std::string_view digits = R"([\p{N}\x{11de0}-\x{11de9}\x{16ff4}-\x{16ff6}])";
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

// What the oracle knows and PCRE2 10.42 (Unicode 14) does not: letters and numbers new in Unicode 15 and 16; and
// PCRE2's \s also matches U+180E. So the three classes are spelled out.
constexpr std::string_view space =
    R"(\t-\r\x20\x{85}\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000})";
constexpr std::string_view letter =
    R"(\p{L}\x{1c89}-\x{1c8a}\x{a7cb}-\x{a7cd}\x{a7da}-\x{a7dc}\x{105c0}-\x{105f3}\x{10d4a}-\x{10d65}\x{10d6f}-\x{10d85})"
    R"(\x{10ec2}-\x{10ec4}\x{1123f}-\x{11240}\x{11380}-\x{11389}\x{1138b}\x{1138e}\x{11390}-\x{113b5}\x{113b7}\x{113d1})"
    R"(\x{113d3}\x{11bc0}-\x{11be0}\x{11f02}\x{11f04}-\x{11f10}\x{11f12}-\x{11f33}\x{1342f}\x{13441}-\x{13446})"
    R"(\x{13460}-\x{143fa}\x{16100}-\x{1611d}\x{16d40}-\x{16d6c}\x{18cff}\x{1b132}\x{1b155}\x{1df25}-\x{1df2a})"
    R"(\x{1e030}-\x{1e06d}\x{1e4d0}-\x{1e4eb}\x{1e5d0}-\x{1e5ed}\x{1e5f0}\x{2b739}\x{2ebf0}-\x{2ee5d}\x{31350}-\x{323af})";
constexpr std::string_view number =
    R"(\p{N}\x{10d40}-\x{10d49}\x{116d0}-\x{116e3}\x{11bf0}-\x{11bf9}\x{11f50}-\x{11f59}\x{16130}-\x{16139}\x{16d70}-\x{16d79})"
    R"(\x{1ccf0}-\x{1ccf9}\x{1d2c0}-\x{1d2d3}\x{1e4f0}-\x{1e4f9}\x{1e5f1}-\x{1e5fa})";

std::string with_plain_classes(std::string_view pattern) {
  std::string result;
  bool in_class = false;
  while (!pattern.empty()) {
    if (pattern[0] == '[') in_class = true;
    if (pattern[0] == ']') in_class = false;
    std::size_t used = pattern[0] == '\\' ? 2 : 1;
    std::string_view spelled;
    if (pattern.starts_with("\\s")) spelled = space;
    if (pattern.starts_with("\\p{L}")) spelled = letter;
    if (pattern.starts_with("\\p{N}")) spelled = number;
    if (spelled == letter || spelled == number) used = 5;
    if (pattern.starts_with("\\S"))
      result += fmt::format("[^{}]", space);
    else if (spelled.empty())
      result += pattern.substr(0, used);
    else
      result += in_class ? std::string(spelled) : fmt::format("[{}]", spelled);
    pattern.remove_prefix(used);
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
    const std::string pattern = with_plain_classes(stage);
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
