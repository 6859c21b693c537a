#include "data/text/token_meta.h"

#include <charconv>
#include <filesystem>

#include "data/files/atomic_file.h"
#include "data/files/json_at.h"
#include "data/files/json_text.h"
#include "data/text/token_file_format.h"
#include "data/tokenizers/vocabulary.h"

namespace limbeck::data {

using nlohmann::json;

namespace {

constexpr const char* format_name = "limbeck token file 1";
constexpr std::uint64_t any_count = std::uint64_t{1} << 62U;

std::string meta_file(const std::string& prefix) { return token_file_prefix(prefix) + ".meta.json"; }

}  // namespace

TokenMeta meta_of(const Tokenizer& tokenizer, bool parse_special, const TokenFileSize& size) {
  const std::int64_t vocabulary = named_size(tokenizer);
  return {vocabulary, vocabulary_fingerprint(tokenizer, vocabulary), parse_special, size};
}

void write_token_meta(const std::string& prefix, const TokenMeta& meta) {
  nlohmann::ordered_json document = {
      {"format", format_name},
      {"documents", meta.size.documents},
      {"tokens", meta.size.tokens},
      {"parse_special", meta.parse_special},
      {"tokenizer", {{"vocabulary", meta.vocabulary}, {"fingerprint", fmt::format("{:016x}", meta.fingerprint)}}}};
  if (!meta.chat_template.empty()) document["chat_template"] = meta.chat_template;
  if (meta.has_pairs) document["pairs"] = true;
  write_file_atomically(meta_file(prefix), document.dump(2) + "\n");
}

std::optional<TokenMeta> read_token_meta(const TokenFile& file) {
  const std::string path = meta_file(file.prefix());
  if (!std::filesystem::exists(path)) return std::nullopt;
  const json parsed = parse_json<json>(read_text_file(path, 1U << 20U), path);
  const JsonAt document(parsed, path);
  if (document.at("format").text() != format_name) document.at("format").refuse(format_name);
  const JsonAt tokenizer = document.at("tokenizer");
  const std::string& hex = tokenizer.at("fingerprint").text();
  TokenMeta meta{.vocabulary = tokenizer.at("vocabulary").index(any_count),
                 .parse_special = document.flag("parse_special", false),
                 .size = {document.at("documents").index(any_count), document.at("tokens").index(any_count)}};
  const auto [end, error] = std::from_chars(hex.data(), hex.data() + hex.size(), meta.fingerprint, 16);
  if (error != std::errc{} || end != hex.data() + hex.size())
    tokenizer.at("fingerprint").refuse("a number in hexadecimal digits");
  if (const JsonAt chat = document.get("chat_template"); !chat.is_null()) meta.chat_template = chat.text();
  meta.has_pairs = document.flag("pairs", false);
  const bool is_of_file = meta.size.documents == file.num_documents() && meta.size.tokens == file.num_tokens();
  core::check(!is_of_file || (meta.chat_template.empty() && !meta.has_pairs) || file.has_mask(),
              "{}.mask: is not there, expected which tokens of its {} are targets", file.prefix(),
              meta.has_pairs ? "pairs" : "conversations");
  return is_of_file ? std::optional(meta) : std::nullopt;
}

bool is_made_by(const TokenMeta& meta, const Tokenizer& tokenizer) {
  return meta.vocabulary <= tokenizer.vocabulary_size() &&
         vocabulary_fingerprint(tokenizer, meta.vocabulary) == meta.fingerprint;
}

}  // namespace limbeck::data
