// Tokenizers as the one JSON document that a checkpoint carries, and BPE as Hugging Face's files.
#include "data/tokenizers/tokenizer_json.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "data/files/json_text.h"
#include "data/tokenizers/answer_ends.h"
#include "data/tokenizers/tokenizer_sentencepiece.h"

namespace limbeck::data {

using core::check;
using core::fail;
using nlohmann::json;

namespace {

constexpr const char* format_name = "limbeck tokenizer 2";

json pretokenizer_json(const std::vector<PretokenizerStage>& stages) {
  json steps = json::array();
  bool use_regex = false;  // ByteLevel applies GPT-2's words itself
  for (const auto& stage : stages) {
    check(!use_regex && !stage.pattern.empty() && stage.behavior == SplitBehavior::Isolated,
          "tokenizer: its pre-tokenizer cannot be written");
    if (stage.pattern == gpt2_pattern)
      use_regex = true;
    else if (stage.pattern == digit_pattern)
      steps.push_back({{"type", "Digits"}, {"individual_digits", true}});
    else
      steps.push_back(
          {{"type", "Split"}, {"pattern", {{"Regex", stage.pattern}}}, {"behavior", "Isolated"}, {"invert", false}});
  }
  steps.push_back(
      {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", use_regex}});
  return {{"type", "Sequence"}, {"pretokenizers", steps}};
}

json normalizer_json(const std::vector<NormalizerStep>& steps) {
  if (steps.empty()) return nullptr;
  check(steps.size() == 1 && steps[0] == NormalizerStep{}, "tokenizer: its normalizer cannot be written");
  return {{"type", "NFC"}};
}

json added_json(const BpeDescription& d) {
  std::vector<AddedToken> added = d.added;
  std::sort(added.begin(), added.end(), [](const auto& a, const auto& b) { return a.id < b.id; });
  json result = json::array();
  for (const auto& token : added)
    result.push_back({{"id", token.id},
                      {"content", d.tokens[token.id]},
                      {"single_word", token.single_word},
                      {"lstrip", token.lstrip},
                      {"rstrip", token.rstrip},
                      {"normalized", token.normalized},
                      {"special", token.special}});
  return result;
}

/// Puts the start of a text in front.
json template_json(const BpeDescription& d) {
  if (!d.start_of_text) return nullptr;
  const std::string& token = d.tokens[*d.start_of_text];
  const auto special = [&](int type) { return json{{"SpecialToken", {{"id", token}, {"type_id", type}}}}; };
  const auto text = [](const char* id, int type) { return json{{"Sequence", {{"id", id}, {"type_id", type}}}}; };
  return {{"type", "TemplateProcessing"},
          {"single", {special(0), text("A", 0)}},
          {"pair", {special(0), text("A", 0), special(1), text("B", 1)}},
          {"special_tokens", {{token, {{"id", token}, {"ids", {*d.start_of_text}}, {"tokens", {token}}}}}}};
}

json vocabulary_json(const BpeDescription& d) {
  std::vector<bool> is_left_out(d.tokens.size());
  for (const auto& token : d.added) is_left_out[token.id] = !token.in_model;
  json result = json::object();
  for (std::size_t id = 0; id < d.tokens.size(); ++id)
    if (!d.tokens[id].empty() && !is_left_out[id]) result[d.tokens[id]] = id;
  return result;
}

/// What checkpoints of Limbeck 1 carry: tokens, merges and the name of the pretokenizer.
BpeDescription read_format_1(const json& document, const std::string& where) {
  BpeDescription d;
  const auto& rules = pretokenizer_rules(document.at("pre").get<std::string>(), where + ": pre");
  d.pretokenizer = rules.stages;
  d.ignore_merges = rules.ignore_merges;
  document.at("tokens").get_to(d.tokens);
  document.at("merges").get_to(d.merges);
  for (const auto id : document.at("special").get<std::vector<std::int32_t>>())
    d.added.push_back({.id = id, .special = true});
  for (const auto id : document.at("user").get<std::vector<std::int32_t>>()) d.added.push_back({.id = id});
  document.at("eos").get_to(d.eos);
  document.at("chat_template").get_to(d.chat_template);
  if (document.contains("bos")) d.bos = document.at("bos").get<std::int32_t>();
  return d;
}

}  // namespace

HuggingFaceTokenizer write_tokenizer_json(const BpeDescription& d, std::int32_t end_of_text) {
  check(!d.byte_fallback, "tokenizer: BPE with byte_fallback cannot be written");
  const json byte_level = {
      {"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", false}};
  const json unk = d.unk ? json(d.tokens[*d.unk]) : json(nullptr);
  const json tokenizer = {{"version", "1.0"},
                          {"truncation", nullptr},
                          {"padding", nullptr},
                          {"added_tokens", added_json(d)},
                          {"normalizer", normalizer_json(d.normalizer)},
                          {"pre_tokenizer", pretokenizer_json(d.pretokenizer)},
                          {"post_processor", template_json(d)},
                          {"decoder", byte_level},
                          {"model",
                           {{"type", "BPE"},
                            {"dropout", nullptr},
                            {"unk_token", unk},
                            {"continuing_subword_prefix", nullptr},
                            {"end_of_word_suffix", nullptr},
                            {"fuse_unk", d.fuse_unk},
                            {"byte_fallback", false},
                            {"ignore_merges", d.ignore_merges},
                            {"vocab", vocabulary_json(d)},
                            {"merges", d.merges}}}};
  json config = {{"tokenizer_class", "PreTrainedTokenizerFast"},
                 {"eos_token", d.tokens[d.eos]},
                 {"pad_token", d.tokens[end_of_text]},
                 {"clean_up_tokenization_spaces", false},
                 {"add_bos_token", d.start_of_text.has_value()}};
  if (d.bos) config["bos_token"] = d.tokens[*d.bos];
  if (!d.chat_template.empty()) config["chat_template"] = d.chat_template;
  std::vector<std::int32_t> ends = {d.eos};
  ends.insert(ends.end(), d.other_ends.begin(), d.other_ends.end());
  return {.tokenizer_json = tokenizer.dump(),
          .tokenizer_config_json = config.dump(2),
          .generation_config_json = write_generation_config(d.bos, ends)};
}

HuggingFaceTokenizer BpeTokenizer::to_hugging_face() const {
  return files_ ? *files_ : write_tokenizer_json(description_, end_of_text_);
}

std::string BpeTokenizer::to_json() const {
  const HuggingFaceTokenizer files = to_hugging_face();
  return json{{"format", format_name},
              {"tokenizer.json", files.tokenizer_json},
              {"tokenizer_config.json", files.tokenizer_config_json},
              {"generation_config.json", files.generation_config_json}}
      .dump();
}

std::shared_ptr<const Tokenizer> tokenizer_from_json(std::string_view text, const std::string& where) {
  HuggingFaceTokenizer files;
  try {
    const auto document = parse_json<json>(text, where);
    const auto format = document.value("format", "");
    if (format == sentencepiece_format) return sentencepiece_from_json(document, where);
    if (format == "limbeck tokenizer 1") return std::make_shared<BpeTokenizer>(read_format_1(document, where), where);
    check(format == format_name, "{}: the tokenizer's format is '{}', expected '{}'", where, format, format_name);
    document.at("tokenizer.json").get_to(files.tokenizer_json);
    document.at("tokenizer_config.json").get_to(files.tokenizer_config_json);
    files.generation_config_json = document.value("generation_config.json", "");  // absent in older checkpoints
  } catch (const json::exception& error) {
    fail("{}: the tokenizer is not what Limbeck writes: {}", where, json_reason(error));
  }
  return tokenizer_from_hugging_face(std::move(files), fmt::format("{}: tokenizer.json", where));
}

}  // namespace limbeck::data
