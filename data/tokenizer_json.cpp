// Tokenizers as one JSON document of Limbeck's own, and BPE as Hugging Face's tokenizer.json.
#include <nlohmann/json.hpp>

#include <algorithm>

#include "core/error.h"
#include "data/tokenizer_bpe.h"
#include "data/tokenizer_sentencepiece.h"

namespace limbeck::data {

using core::check;
using core::fail;
using nlohmann::json;

namespace {

constexpr const char* format_name = "limbeck tokenizer 1";

}  // namespace

std::string BpeTokenizer::to_json() const {
  const auto& d = description_;
  json document = {{"format", format_name}, {"pre", d.pre},   {"tokens", d.tokens}, {"merges", d.merges},
                   {"special", d.special},  {"user", d.user}, {"eos", d.eos},       {"chat_template", d.chat_template}};
  if (d.bos) document["bos"] = *d.bos;
  return document.dump();
}

std::shared_ptr<const Tokenizer> tokenizer_from_json(std::string_view text, const std::string& where) {
  BpeDescription d;
  try {
    const json document = json::parse(text);
    const auto format = document.value("format", "");
    if (format == sentencepiece_format) return sentencepiece_from_json(document, where);
    check(format == format_name, "{}: the tokenizer's format is '{}', expected '{}'", where, format, format_name);
    document.at("pre").get_to(d.pre);
    document.at("tokens").get_to(d.tokens);
    document.at("merges").get_to(d.merges);
    document.at("special").get_to(d.special);
    document.at("user").get_to(d.user);
    document.at("eos").get_to(d.eos);
    document.at("chat_template").get_to(d.chat_template);
    if (document.contains("bos")) d.bos = document.at("bos").get<std::int32_t>();
  } catch (const json::exception& error) {
    fail("{}: the tokenizer is not what Limbeck writes: {}", where, error.what());
  }
  return std::make_shared<BpeTokenizer>(std::move(d), where);
}

HuggingFaceTokenizer BpeTokenizer::to_hugging_face() const {
  const auto& d = description_;
  json vocabulary = json::object();
  for (std::size_t id = 0; id < d.tokens.size(); ++id) vocabulary[d.tokens[id]] = id;
  std::vector<std::int32_t> added_ids = d.special;
  added_ids.insert(added_ids.end(), d.user.begin(), d.user.end());
  std::sort(added_ids.begin(), added_ids.end());
  json added = json::array();
  for (const auto id : added_ids) {
    const bool is_special = std::find(d.special.begin(), d.special.end(), id) != d.special.end();
    added.push_back({{"id", id},
                     {"content", d.tokens[id]},
                     {"single_word", false},
                     {"lstrip", false},
                     {"rstrip", false},
                     {"normalized", false},
                     {"special", is_special}});
  }
  const json byte_level = {
      {"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", false}};
  const json tokenizer = {{"version", "1.0"},
                          {"truncation", nullptr},
                          {"padding", nullptr},
                          {"added_tokens", added},
                          {"normalizer", nullptr},
                          {"pre_tokenizer", json::parse(hugging_face_pretokenizer(rules_))},
                          {"post_processor", nullptr},
                          {"decoder", byte_level},
                          {"model",
                           {{"type", "BPE"},
                            {"dropout", nullptr},
                            {"unk_token", nullptr},
                            {"continuing_subword_prefix", nullptr},
                            {"end_of_word_suffix", nullptr},
                            {"fuse_unk", false},
                            {"byte_fallback", false},
                            {"ignore_merges", rules_.ignore_merges},
                            {"vocab", vocabulary},
                            {"merges", d.merges}}}};
  json config = {{"tokenizer_class", "PreTrainedTokenizerFast"},
                 {"eos_token", d.tokens[d.eos]},
                 {"pad_token", d.tokens[end_of_text_]},
                 {"clean_up_tokenization_spaces", false},
                 {"add_bos_token", false}};
  if (d.bos) config["bos_token"] = d.tokens[*d.bos];
  if (!d.chat_template.empty()) config["chat_template"] = d.chat_template;
  return {tokenizer.dump(), config.dump(2)};
}

}  // namespace limbeck::data
