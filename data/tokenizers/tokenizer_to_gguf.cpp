// Tokenizers as the tokenizer.ggml keys of a GGUF file: what llama.cpp calls gpt2 (byte-level BPE) and llama
// (SentencePiece's BPE).
#include <algorithm>
#include <array>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>

#include "core/error.h"
#include "data/models/gguf_write.h"
#include "data/tokenizers/answer_ends.h"
#include "data/tokenizers/tokenizer_bpe.h"
#include "data/tokenizers/tokenizer_sentencepiece.h"

namespace limbeck::data {

using core::check;
using core::fail;

namespace {

// Values of tokenizer.ggml.token_type.
constexpr std::int32_t normal_token = 1;
constexpr std::int32_t control_token = 3;
constexpr std::int32_t user_token = 4;
constexpr std::int32_t unused_token = 5;
constexpr float added_score = -1000;  // as llama.cpp's converter
constexpr const char* space = "\xe2\x96\x81";

void check_vocabulary(const Tokenizer& tokenizer, std::int64_t vocabulary) {
  check(tokenizer.vocabulary_size() <= vocabulary,
        "GGUF export: the tokenizer has {} tokens, expected at most the model's {}", tokenizer.vocabulary_size(),
        vocabulary);
}

/// A model may have more rows than there are tokens, and a vocabulary gaps; llama.cpp wants a token for each.
void pad(std::vector<std::string>& tokens, std::vector<std::int32_t>& types, std::int64_t vocabulary) {
  tokens.resize(static_cast<std::size_t>(vocabulary));
  types.resize(tokens.size(), unused_token);
  for (std::size_t id = 0; id < tokens.size(); ++id)
    if (tokens[id].empty()) {
      tokens[id] = fmt::format("[PAD{}]", id);
      types[id] = unused_token;
    }
}

/// Whether a BPE with byte fallback treats spaces as llama.cpp does, and whether it puts one in front of a text.
std::optional<bool> adds_space_prefix(const BpeDescription& d) {
  using Kind = NormalizerStep::Kind;
  const NormalizerStep prefix{.kind = Kind::Prepend, .content = space};
  const NormalizerStep spaces{.kind = Kind::Replace, .pattern = literal_pattern(" "), .content = space};
  if (d.pretokenizer.empty() && d.normalizer == std::vector{prefix, spaces}) return true;
  // Gemma's cuts at spaces, of which the normalizer has left none.
  const PretokenizerStage at_spaces{.pattern = literal_pattern(" "), .behavior = SplitBehavior::MergedWithPrevious};
  if (d.normalizer == std::vector{spaces} && (d.pretokenizer.empty() || d.pretokenizer == std::vector{at_spaces}))
    return false;
  if (!d.normalizer.empty() || d.pretokenizer.size() != 1) return std::nullopt;
  const PretokenizerStage& stage = d.pretokenizer.front();
  if (!stage.pattern.empty() || stage.space != space) return std::nullopt;
  return !stage.prefix.empty();
}

/// llama.cpp merges what makes the token of the highest score, any two tokens that make one: so a merge has to be there
/// for each two, and those of one token together.
std::map<std::string, float> scores_of_merges(const BpeDescription& d) {
  std::map<std::string, float> scores;
  std::set<std::string> merges(d.merges.begin(), d.merges.end());
  std::string last;
  for (const std::string& merge : d.merges) {
    std::string made = merge;
    made.erase(made.find(' '), 1);
    if (made != last)
      check(scores.emplace(made, -static_cast<float>(scores.size())).second,
            "GGUF export: the merges that make token {} are not together, as llama.cpp would do them", made);
    last = made;
  }
  std::set<std::string> tokens(d.tokens.begin(), d.tokens.end());
  for (const auto& token : d.added) tokens.erase(d.tokens[static_cast<std::size_t>(token.id)]);
  for (const std::string& token : tokens)
    for (std::size_t at = 1; at < token.size(); ++at)
      check(!tokens.contains(token.substr(0, at)) || !tokens.contains(token.substr(at)) ||
                merges.contains(fmt::format("{} {}", token.substr(0, at), token.substr(at))),
            "GGUF export: {} and {} are not merged, which llama.cpp would do", token.substr(0, at), token.substr(at));
  return scores;
}

/// BPE with byte fallback as the SentencePiece model that it was once made from, the form in which GGUF has it.
SentencePieceDescription as_sentencepiece(const BpeDescription& d) {
  using Type = SentencePieceModel::Type;
  const auto adds_prefix = adds_space_prefix(d);
  check(adds_prefix.has_value() && !d.ignore_merges,
        "GGUF export: the tokenizer's normalizer or pre-tokenizer changes its text, which llama.cpp would not do");
  SentencePieceDescription result{.eos = d.eos,
                                  .other_ends = d.other_ends,
                                  .bos = d.start_of_text ? d.start_of_text : d.bos,
                                  .adds_bos = d.start_of_text.has_value(),
                                  .chat_template = d.chat_template};
  SentencePieceModel& model = result.model;
  model.kind = SentencePieceModel::Kind::Bpe;
  model.byte_fallback = true;
  model.normalizer_name = "identity";
  model.add_dummy_prefix = *adds_prefix;
  model.remove_extra_whitespaces = false;
  std::vector<const AddedToken*> added(d.tokens.size());
  for (const auto& token : d.added) added[static_cast<std::size_t>(token.id)] = &token;
  const std::map<std::string, float> scores = scores_of_merges(d);
  for (std::size_t id = 0; id < d.tokens.size(); ++id) {
    const std::string& name = d.tokens[id];
    SentencePieceModel::Piece piece{.text = name.empty() ? fmt::format("[PAD{}]", id) : name, .type = Type::Normal};
    if (const auto score = scores.find(name); score != scores.end()) piece.score = score->second;
    if (name.empty()) piece.type = Type::Unused;
    if (byte_of_piece(name) >= 0) piece.type = Type::Byte;
    if (added[id] != nullptr) piece.type = added[id]->special ? Type::Control : Type::UserDefined;
    if (d.unk && *d.unk == static_cast<std::int32_t>(id)) {
      piece.type = Type::Unknown;
      model.unk_piece = name;
    }
    model.pieces.push_back(std::move(piece));
  }
  check(d.unk || d.tokens[0] == "<unk>", "GGUF export: the tokenizer has no unknown token, expected one as in Llama");
  if (!d.unk) model.pieces[0].type = Type::Unknown;
  model.eos_piece = d.tokens[static_cast<std::size_t>(d.eos)];
  if (result.bos) model.bos_piece = d.tokens[static_cast<std::size_t>(*result.bos)];
  for (const auto& token : d.added) {
    check(!token.single_word, "GGUF export: token {} stands apart from words, which llama.cpp would not do",
          d.tokens[static_cast<std::size_t>(token.id)]);
    result.added.push_back({.id = token.id,
                            .text = d.tokens[static_cast<std::size_t>(token.id)],
                            .is_special = token.special,
                            .strips_left = token.lstrip,
                            .strips_right = token.rstrip});
  }
  return result;
}

/// Whether the tokens that take white space along are those of Phi-3, of which llama.cpp knows it by the model's name.
bool strips_as_phi3(const SentencePieceDescription& d) {
  constexpr std::array<std::string_view, 3> unstripped = {"<unk>", "<s>", "<|endoftext|>"};
  bool has_turns = false;
  for (const CutToken& token : d.added) {
    const bool is_stripped = std::find(unstripped.begin(), unstripped.end(), token.text) == unstripped.end();
    if (token.strips_right != is_stripped) return false;
    has_turns |= token.text == "<|end|>";
  }
  return has_turns;
}

void add_id(GgufKeys& keys, const char* name, std::int32_t id) {
  keys.emplace_back(std::string("tokenizer.ggml.") + name, static_cast<std::uint32_t>(id));
}

}  // namespace

GgufKeys BpeTokenizer::to_gguf(std::int64_t vocabulary) const {
  const auto& d = description_;
  if (d.byte_fallback) return SentencePieceTokenizer(as_sentencepiece(d), "GGUF export").to_gguf(vocabulary);
  check_vocabulary(*this, vocabulary);
  const bool is_nfc = d.normalizer == std::vector{NormalizerStep{}};
  check(d.normalizer.empty() || is_nfc,
        "GGUF export: the tokenizer's normalizer changes its text, which llama.cpp would not do");
  auto pre = pretokenizer_name(d.pretokenizer, d.ignore_merges, is_nfc);
  // Where merges make every token, it is no matter whether a word that is one is merged.
  if (!pre && merges_make_all_tokens()) pre = pretokenizer_name(d.pretokenizer, !d.ignore_merges, is_nfc);
  // llama.cpp knows no rules that leave the text whole. Where nothing is merged, any rules give the same bytes.
  if (d.pretokenizer.empty() && d.normalizer.empty() && d.merges.empty()) pre = "gpt-2";
  check(pre.has_value(), "GGUF export: the tokenizer's pre-tokenizer is not one that llama.cpp knows by name");
  check(!d.unk || std::find(id_of_byte_.begin(), id_of_byte_.end(), -1) == id_of_byte_.end(),
        "GGUF export: token {} stands for bytes without a token, which llama.cpp would drop",
        d.tokens[d.unk.value_or(0)]);

  std::vector<std::string> tokens = d.tokens;
  std::vector<std::int32_t> types(tokens.size(), normal_token);
  for (const auto& token : d.added) {
    check(
        !token.single_word && !token.lstrip && !token.rstrip,
        "GGUF export: token {} takes the white space beside it along or stands apart from words, which llama.cpp would "
        "not do",
        tokens[token.id]);
    types[token.id] = token.special ? control_token : user_token;
  }
  pad(tokens, types, vocabulary);
  GgufKeys keys = {{"tokenizer.ggml.model", std::string("gpt2")},
                   {"tokenizer.ggml.pre", *pre},
                   {"tokenizer.ggml.tokens", std::move(tokens)},
                   {"tokenizer.ggml.token_type", std::move(types)},
                   {"tokenizer.ggml.merges", d.merges}};
  add_id(keys, "eos_token_id", d.eos);
  add_answer_ends(keys, d.other_ends);
  if (const auto bos = d.start_of_text ? d.start_of_text : d.bos) add_id(keys, "bos_token_id", *bos);
  keys.emplace_back("tokenizer.ggml.add_bos_token", d.start_of_text.has_value());
  if (!d.chat_template.empty()) keys.emplace_back("tokenizer.chat_template", d.chat_template);
  return keys;
}

GgufKeys SentencePieceTokenizer::to_gguf(std::int64_t vocabulary) const {
  const auto& d = description_;
  const SentencePieceModel& model = d.model;
  check_vocabulary(*this, vocabulary);
  check(model.kind == SentencePieceModel::Kind::Bpe && model.byte_fallback,
        "GGUF export: the tokenizer is SentencePiece {} {} byte fallback, expected BPE with byte fallback as in Llama",
        model.kind == SentencePieceModel::Kind::Bpe ? "BPE" : "unigram", model.byte_fallback ? "with" : "without");
  check(model.charsmap.empty() && !model.remove_extra_whitespaces && !model.whitespace_as_suffix &&
            model.escape_whitespaces,
        "GGUF export: the tokenizer's normalizer {} changes its text, which llama.cpp would not do",
        model.normalizer_name);

  std::vector<std::string> tokens;
  std::vector<float> scores;
  std::vector<std::int32_t> types;
  std::int32_t unknown = -1;
  for (const auto& piece : model.pieces) {
    if (piece.type == SentencePieceModel::Type::Unknown) unknown = static_cast<std::int32_t>(tokens.size());
    tokens.push_back(piece.text);
    scores.push_back(piece.score);
    types.push_back(static_cast<std::int32_t>(piece.type));
  }
  pad(tokens, types, vocabulary);  // added tokens take their places among these
  scores.resize(tokens.size(), added_score);
  const bool is_phi3 = strips_as_phi3(d);
  for (const auto& token : d.added) {
    if (token.strips_left || (token.strips_right && !is_phi3))
      fail("GGUF export: token {} takes the white space beside it along, which llama.cpp would not do", token.text);
    tokens[token.id] = token.text;
    if (token.id != unknown) types[token.id] = token.is_special ? control_token : user_token;
  }
  GgufKeys keys = {{"tokenizer.ggml.model", std::string("llama")},
                   {"tokenizer.ggml.pre", std::string("default")},
                   {"tokenizer.ggml.tokens", std::move(tokens)},
                   {"tokenizer.ggml.scores", std::move(scores)},
                   {"tokenizer.ggml.token_type", std::move(types)}};
  if (unknown >= 0) add_id(keys, "unknown_token_id", unknown);
  add_id(keys, "eos_token_id", d.eos);
  add_answer_ends(keys, d.other_ends);
  if (d.bos) add_id(keys, "bos_token_id", *d.bos);
  keys.emplace_back("tokenizer.ggml.add_bos_token", start_of_text_id().has_value());
  keys.emplace_back("tokenizer.ggml.add_space_prefix", model.add_dummy_prefix);
  if (!d.chat_template.empty()) keys.emplace_back("tokenizer.chat_template", d.chat_template);
  return keys;
}

}  // namespace limbeck::data
