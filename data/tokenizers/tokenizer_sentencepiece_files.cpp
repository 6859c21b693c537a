// Where SentencePiece tokenizers come from and what they leave as: a .model file and its neighbours, GGUF keys, and the
// document of a checkpoint.
#include <algorithm>
#include <nlohmann/json.hpp>
#include <set>

#include "core/error.h"
#include "data/files/atomic_file.h"
#include "data/files/file_kind.h"
#include "data/files/json_at.h"
#include "data/files/json_text.h"
#include "data/tokenizers/answer_ends.h"
#include "data/tokenizers/chat_formats.h"
#include "data/tokenizers/tokenizer_folder.h"
#include "data/tokenizers/tokenizer_gguf.h"
#include "data/tokenizers/tokenizer_sentencepiece.h"
#include "data/tokenizers/unicode.h"

namespace limbeck::data {

using core::check;
using core::fail;
using nlohmann::json;
using Type = SentencePieceModel::Type;
namespace fs = std::filesystem;

namespace {

constexpr std::uintmax_t largest_file = std::uintmax_t{1} << 28U;

constexpr std::string_view base64_digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Whether a file is tiktoken's: lines of a token in base64, a space and its rank.
bool is_tiktoken(std::string_view bytes) {
  const std::string_view line = bytes.substr(0, bytes.find('\n'));
  const std::size_t gap = line.find(' ');
  const auto consists_of = [](std::string_view text, std::string_view characters) {
    return !text.empty() && text.find_first_not_of(characters) == std::string_view::npos;
  };
  return gap != std::string_view::npos && consists_of(line.substr(0, gap), std::string(base64_digits) + "=") &&
         consists_of(line.substr(gap + 1), "0123456789\r");
}

/// "bos_token" and the like: the token's text, or an object with it as "content"; empty where there is none.
std::string token_text(const json& config, const char* name) {
  const auto found = config.find(name);
  if (found == config.end() || found->is_null()) return "";
  return (found->is_object() ? found->at("content") : *found).get<std::string>();
}

std::int32_t to_id(std::int64_t id, const std::string& where, std::string_view what) {
  check(id >= 0 && id < (std::int64_t{1} << 31U), "{}: {} is {}, expected a token's id", where, what, id);
  return static_cast<std::int32_t>(id);
}

std::vector<CutToken> added_tokens(const json& decoder, const std::string& where) {
  std::vector<CutToken> added;
  for (const auto& [key, value] : decoder.items()) {
    const bool is_number = !key.empty() && key.size() < 10 && key.find_first_not_of("0123456789") == std::string::npos;
    check(is_number, "{}: added_tokens_decoder has a key \"{}\", expected a token's id", where, key);
    CutToken token{.id = std::stoi(key), .text = value.at("content").get<std::string>()};
    const JsonAt flags(value, fmt::format("{}: added_tokens_decoder.{}", where, key));
    token.is_special = flags.flag("special", false);
    token.strips_left = flags.flag("lstrip", false);
    token.strips_right = flags.flag("rstrip", false);
    added.push_back(std::move(token));
  }
  std::sort(added.begin(), added.end(), [](const auto& a, const auto& b) { return a.id < b.id; });
  return added;
}

/// The id of a token by its text among the added ones and the pieces; -1: none.
std::int32_t find_token(const SentencePieceDescription& d, const std::string& text) {
  for (const auto& added : d.added)
    if (added.text == text) return added.id;
  return d.model.id_of(text);
}

std::string to_base64(std::string_view bytes) {
  std::string text;
  for (std::size_t i = 0; i < bytes.size(); i += 3) {
    std::uint32_t word = 0;
    for (std::size_t k = 0; k < 3; ++k)
      word = word << 8U | (i + k < bytes.size() ? static_cast<unsigned char>(bytes[i + k]) : 0U);
    for (std::size_t k = 0; k < 4; ++k)
      text.push_back(i + k > bytes.size() ? '=' : base64_digits[word >> (18 - 6 * k) & 63U]);
  }
  return text;
}

std::string from_base64(std::string_view text, const std::string& where) {
  std::string bytes;
  std::uint32_t word = 0;
  int bits = 0;
  for (const char c : text.substr(0, text.find('='))) {
    const std::size_t digit = base64_digits.find(c);
    check(digit != std::string_view::npos, "{}: the SentencePiece model is not base64", where);
    word = word << 6U | static_cast<std::uint32_t>(digit);
    bits += 6;
    if (bits < 8) continue;
    bits -= 8;
    bytes.push_back(static_cast<char>(word >> bits & 255U));
  }
  return bytes;
}

}  // namespace

std::shared_ptr<const Tokenizer> sentencepiece_from_file(const fs::path& path) {
  SentencePieceDescription d;
  const std::string bytes = read_text_file(path, largest_file);
  check(!is_tiktoken(bytes),
        "{}: is a file of tiktoken (tokens in base64, a line each), expected a SentencePiece model", path.string());
  if (!bytes.starts_with('\n')) refuse_other_kind(path.string(), bytes, "a SentencePiece model");
  d.model = parse_sentencepiece_model(bytes, path.string());
  std::string bos = d.model.bos_piece;
  std::string eos = d.model.eos_piece;
  const std::string where = (path.parent_path() / "tokenizer_config.json").string();
  try {
    const json config = json::parse(read_tokenizer_config_with_added_tokens(path.parent_path()));
    if (config.contains("added_tokens_decoder")) d.added = added_tokens(config["added_tokens_decoder"], where);
    d.adds_bos = JsonAt(config, where).flag("add_bos_token", true);
    if (const std::string text = token_text(config, "bos_token"); !text.empty()) bos = text;
    if (const std::string text = token_text(config, "eos_token"); !text.empty()) eos = text;
    if (config.contains("chat_template")) d.chat_template = chat_template_of(config["chat_template"]);
  } catch (const json::exception& error) {
    fail("{}: {}", where, json_reason(error));
  }
  d.eos = find_token(d, eos);
  check(d.eos >= 0, "{}: the end-of-sequence token {} is not in the vocabulary", path.string(), eos);
  if (const std::int32_t id = find_token(d, bos); id >= 0) d.bos = id;
  d.generation_config = read_generation_config(path.parent_path());
  std::int64_t size = static_cast<std::int64_t>(d.model.pieces.size());
  for (const auto& token : d.added) size = std::max<std::int64_t>(size, token.id + 1);
  d.other_ends = without(answer_ends(d.generation_config, path.string(), size), d.eos);
  return std::make_shared<SentencePieceTokenizer>(std::move(d), path.string());
}

std::shared_ptr<const Tokenizer> sentencepiece_from_gguf(const GgufFile& file) {
  const auto key = [](const char* name) { return std::string("tokenizer.ggml.") + name; };
  const auto flag_or = [&](const char* name, bool otherwise) {
    return file.has(key(name)) ? file.boolean(key(name)) : otherwise;
  };
  SentencePieceDescription d;
  SentencePieceModel& model = d.model;
  model.kind = SentencePieceModel::Kind::Bpe;
  model.normalizer_name = "identity";
  model.add_dummy_prefix = flag_or("add_space_prefix", true);
  model.remove_extra_whitespaces = flag_or("remove_extra_whitespaces", false);
  const std::vector<std::string> tokens = gguf_tokens(file);
  const std::size_t all = file.strings(key("tokens")).size();
  const auto& scores = file.numbers(key("scores"));
  const auto& types = file.integers(key("token_type"));
  check(scores.size() == all && types.size() == all,
        "{}: tokenizer.ggml.tokens, scores and token_type have {}, {} and {} entries, expected as many", file.path(),
        all, scores.size(), types.size());
  const auto named = [&](const char* name, std::string& piece) {
    const std::int32_t id = to_id(file.integer(key(name)), file.path(), key(name));
    check(static_cast<std::size_t>(id) < tokens.size(), "{}: {} is {}, expected an id below {}", file.path(), key(name),
          id, tokens.size());
    piece = tokens[static_cast<std::size_t>(id)];
    return id;
  };
  // The added tokens of Phi-3 take the white space behind them along, by its tokenizer_config.json; GGUF has no key for
  // it.
  const bool is_phi3 = file.has("general.architecture") && file.text("general.architecture") == "phi3";
  const std::set<std::string> unstripped = {"<unk>", "<s>", "<|endoftext|>"};
  std::int32_t unknown = 0;  // as llama.cpp
  if (file.has(key("unknown_token_id"))) unknown = named("unknown_token_id", model.unk_piece);
  for (std::size_t id = 0; id < tokens.size(); ++id) {
    check(types[id] >= 1 && types[id] <= 6, "{}: tokenizer.ggml.token_type of token {} is {}, expected 1 to 6",
          file.path(), id, types[id]);
    auto type = static_cast<Type>(types[id]);
    // Converters mark the unknown token as control and what fills up a vocabulary as unknown.
    if (static_cast<std::int32_t>(id) == unknown || type == Type::Unknown)
      type = static_cast<std::int32_t>(id) == unknown ? Type::Unknown : Type::Control;
    if (type == Type::UserDefined && tokens[id] == "</s>") type = Type::Control;
    model.byte_fallback |= type == Type::Byte;
    model.pieces.push_back({tokens[id], static_cast<float>(scores[id]), type});
    CutToken token{.id = static_cast<std::int32_t>(id), .text = tokens[id], .is_special = type != Type::UserDefined};
    token.strips_right = is_phi3 && !unstripped.contains(tokens[id]);
    if (type == Type::UserDefined || (type == Type::Control && token.strips_right)) d.added.push_back(std::move(token));
  }
  d.eos = named("eos_token_id", model.eos_piece);
  if (file.has(key("bos_token_id"))) d.bos = named("bos_token_id", model.bos_piece);
  d.other_ends = without(answer_ends(file, static_cast<std::int64_t>(tokens.size())), d.eos);
  d.adds_bos = flag_or("add_bos_token", true);
  if (file.has("tokenizer.chat_template")) d.chat_template = file.text("tokenizer.chat_template");
  check(valid_utf8_prefix(d.chat_template) == d.chat_template.size(), "{}: tokenizer.chat_template is not valid UTF-8",
        file.path());
  return std::make_shared<SentencePieceTokenizer>(std::move(d), file.path());
}

std::string SentencePieceTokenizer::to_json() const {
  const auto& d = description_;
  json added = json::array();
  for (const auto& token : d.added)
    added.push_back({token.id, token.text, token.is_special, token.strips_left, token.strips_right});
  json document = {
      {"format", sentencepiece_format}, {"model", to_base64(serialize(d.model))}, {"added", added}, {"eos", d.eos},
      {"adds_bos", d.adds_bos},         {"chat_template", d.chat_template}};
  if (d.bos) document["bos"] = *d.bos;
  if (!d.other_ends.empty()) document["other_ends"] = d.other_ends;
  if (!d.generation_config.empty()) document["generation_config"] = d.generation_config;
  return document.dump();
}

std::shared_ptr<const Tokenizer> sentencepiece_from_json(const json& document, const std::string& where) {
  SentencePieceDescription d;
  try {
    d.model = parse_sentencepiece_model(from_base64(document.at("model").get<std::string>(), where), where);
    for (const auto& token : document.at("added"))
      d.added.push_back({.id = to_id(token.at(0).get<std::int64_t>(), where, "an added token's id"),
                         .text = token.at(1).get<std::string>(),
                         .is_special = token.at(2).get<bool>(),
                         .strips_left = token.at(3).get<bool>(),
                         .strips_right = token.at(4).get<bool>()});
    d.eos = to_id(document.at("eos").get<std::int64_t>(), where, "eos");
    if (document.contains("bos")) d.bos = to_id(document.at("bos").get<std::int64_t>(), where, "bos");
    for (const auto& id : document.value("other_ends", json::array()))
      d.other_ends.push_back(to_id(id.get<std::int64_t>(), where, "an end of an answer"));
    d.generation_config = document.value("generation_config", "");
    document.at("adds_bos").get_to(d.adds_bos);
    document.at("chat_template").get_to(d.chat_template);
  } catch (const json::exception& error) {
    fail("{}: the tokenizer is not what Limbeck writes: {}", where, json_reason(error));
  }
  return std::make_shared<SentencePieceTokenizer>(std::move(d), where);
}

HuggingFaceTokenizer SentencePieceTokenizer::to_hugging_face() const {
  const auto& d = description_;
  json decoder = json::object();
  for (const auto& token : wholes_)
    decoder[std::to_string(token.id)] = {{"content", token.text}, {"lstrip", token.strips_left},
                                         {"normalized", false},   {"rstrip", token.strips_right},
                                         {"single_word", false},  {"special", token.is_special}};
  const auto name = [&](std::int32_t id) { return tokens_[static_cast<std::size_t>(id)].name; };
  const auto unknown = std::find_if(d.model.pieces.begin(), d.model.pieces.end(),
                                    [](const auto& piece) { return piece.type == Type::Unknown; });
  json config = {{"tokenizer_class", "LlamaTokenizer"},
                 {"add_bos_token", d.adds_bos && d.bos},
                 {"add_eos_token", false},
                 {"add_prefix_space", d.model.add_dummy_prefix},
                 {"added_tokens_decoder", decoder},
                 {"clean_up_tokenization_spaces", false},
                 {"eos_token", name(d.eos)},
                 {"legacy", true},
                 {"pad_token", name(end_of_text_)},
                 {"sp_model_kwargs", json::object()},
                 {"unk_token", unknown->text}};
  config["bos_token"] = d.bos ? json(name(*d.bos)) : json(nullptr);
  if (!d.chat_template.empty()) config["chat_template"] = d.chat_template;
  std::vector<std::int32_t> ends = {d.eos};
  ends.insert(ends.end(), d.other_ends.begin(), d.other_ends.end());
  return {.tokenizer_json = "",
          .tokenizer_config_json = config.dump(2),
          .tokenizer_model = serialize(d.model),
          .generation_config_json =
              d.generation_config.empty() ? write_generation_config(d.bos, ends) : d.generation_config};
}

}  // namespace limbeck::data
