#include "data/tokenizers/tokenizer_sentencepiece.h"

#include <sentencepiece_processor.h>

#include <algorithm>

#include "core/error.h"
#include "data/tokenizers/added_tokens.h"
#include "data/tokenizers/unicode.h"

namespace limbeck::data {

using core::check;
using core::fail;
using Type = SentencePieceModel::Type;

namespace {

constexpr std::string_view space = "\xe2\x96\x81";  // U+2581 stands for a space in pieces

std::string with_spaces(std::string_view piece) {
  std::string text;
  for (std::size_t at = 0; at < piece.size();) {
    const bool is_space = piece.substr(at).starts_with(space);
    text.push_back(is_space ? ' ' : piece[at]);
    at += is_space ? space.size() : 1;
  }
  return text;
}

/// Whether a space of the text lies inside of the piece, not at its start.
bool crosses_space(std::string_view piece) {
  while (piece.starts_with(space)) piece.remove_prefix(space.size());
  return piece.find(space) != std::string_view::npos || piece.find(' ') != std::string_view::npos;
}

bool is_letter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }

}  // namespace

SentencePieceTokenizer::SentencePieceTokenizer(SentencePieceDescription description, const std::string& where)
    : description_(std::move(description)), processor_(std::make_unique<sentencepiece::SentencePieceProcessor>()) {
  const SentencePieceModel& model = description_.model;
  validate(model, where);
  add_tokens(where);
  find_words();
  try {
    const auto status = processor_->LoadFromSerializedProto(serialize(model));
    check(status.ok(), "{}: the SentencePiece library refuses the model: {}", where, status.ToString());
  } catch (const core::Error&) {
    throw;
  } catch (const std::exception& error) {
    fail("{}: the SentencePiece library refuses the model: {}", where, error.what());
  }
}

SentencePieceTokenizer::~SentencePieceTokenizer() = default;

void SentencePieceTokenizer::add_tokens(const std::string& where) {
  constexpr std::size_t most_added = std::size_t{1} << 16U;
  const SentencePieceModel& model = description_.model;
  for (const auto& [text, score, type] : model.pieces) {
    Token token{.name = text, .bytes = with_spaces(text)};
    token.is_empty = type == Type::Control;
    token.is_byte = type == Type::Byte;
    if (type == Type::Byte) token.bytes = std::string(1, static_cast<char>(byte_of_piece(text)));
    if (type == Type::Control) token.bytes.clear();
    if (type == Type::Unknown) token.bytes = model.unk_surface;
    if (type == Type::Control || type == Type::Unknown)
      wholes_.push_back({.id = static_cast<std::int32_t>(tokens_.size()), .text = text, .is_special = true});
    tokens_.push_back(std::move(token));
  }
  for (CutToken& added : description_.added) {
    check(added.id >= 0 && static_cast<std::size_t>(added.id) < model.pieces.size() + most_added,
          "{}: an added token has id {}, expected at most {} behind the {} pieces", where, added.id, most_added,
          model.pieces.size());
    check(!added.text.empty() && valid_utf8_prefix(added.text) == added.text.size(),
          "{}: added token {} is empty or not valid UTF-8", where, added.id);
    const auto id = static_cast<std::size_t>(added.id);
    // Text never becomes a control piece unasked, whatever a config says.
    if (id < model.pieces.size() && model.pieces[id].type == Type::Control) added.is_special = true;
    if (id >= tokens_.size()) tokens_.resize(id + 1);
    if (id >= model.pieces.size()) {
      check(tokens_[id].name.empty(), "{}: two added tokens have id {}", where, id);
      const auto alike =
          std::find_if(wholes_.begin(), wholes_.end(), [&](const CutToken& other) { return other.text == added.text; });
      check(alike == wholes_.end(), "{}: {} is added as token {}, but is token {} already", where, added.text, id,
            alike == wholes_.end() ? 0 : alike->id);
      tokens_[id] = {.name = added.text, .bytes = added.is_special ? "" : added.text, .is_empty = added.is_special};
    }
    std::erase_if(wholes_, [&](const CutToken& other) { return other.id == added.id; });
    wholes_.push_back(added);
  }
  std::stable_sort(wholes_.begin(), wholes_.end(),
                   [](const auto& a, const auto& b) { return a.text.size() > b.text.size(); });
  for (const auto& whole : wholes_) starts_whole_[static_cast<unsigned char>(whole.text[0])] = true;

  // A control token goes before a piece of text that is spelled alike.
  for (const auto& whole : wholes_) id_of_token_.emplace(whole.text, whole.id);
  for (std::size_t id = 0; id < tokens_.size(); ++id)
    if (!tokens_[id].name.empty()) id_of_token_.emplace(tokens_[id].name, static_cast<std::int32_t>(id));

  const auto check_id = [&](std::int32_t id, const char* what) {
    check(id >= 0 && id < vocabulary_size(), "{}: {} is {}, expected an id below the vocabulary size {}", where, what,
          id, vocabulary_size());
  };
  check_id(description_.eos, "the tokenizer's end-of-sequence id");
  for (const auto id : description_.other_ends) check_id(id, "an end of an answer");
  if (description_.bos) check_id(*description_.bos, "the tokenizer's begin-of-sequence id");
  end_of_text_ = description_.eos;
  for (const char* name : {"<|end_of_text|>", "<|endoftext|>"}) end_of_text_ = id_of(name).value_or(end_of_text_);
}

void SentencePieceTokenizer::find_words() {
  const SentencePieceModel& model = description_.model;
  // Behind a cut, the space must come back: as the dummy prefix, or as it is.
  if (!model.escape_whitespaces || model.whitespace_as_suffix) return;
  if (!model.add_dummy_prefix && model.remove_extra_whitespaces) return;
  const auto alone = id_of(space);  // else the space could be unknown, and runs of unknown characters are one token
  if (!alone || static_cast<std::size_t>(*alone) >= model.pieces.size()) return;
  if (model.pieces[static_cast<std::size_t>(*alone)].type != Type::Normal) return;
  for (const auto& piece : model.pieces)
    if (crosses_space(piece.text)) return;
  cuts_at_spaces_ = model.charsmap.empty() || !check_charsmap(model.charsmap, "");
}

std::optional<std::int32_t> SentencePieceTokenizer::start_of_text_id() const {
  return description_.adds_bos ? description_.bos : std::nullopt;
}

std::optional<std::int32_t> SentencePieceTokenizer::id_of(std::string_view token) const {
  const auto found = id_of_token_.find(std::string(token));
  return found == id_of_token_.end() ? std::nullopt : std::optional(found->second);
}

/// The longest whole token that starts at `at`. `is_special_name`: a special one does, taken or not.
const CutToken* SentencePieceTokenizer::find_whole(std::string_view text, std::size_t at, const NamesInText& names,
                                                   bool& is_special_name) const {
  is_special_name = false;
  if (!starts_whole_[static_cast<unsigned char>(text[at])]) return nullptr;
  for (const auto& whole : wholes_) {
    if (!text.substr(at).starts_with(whole.text)) continue;
    is_special_name |= whole.is_special;
    if (names.takes(whole.id, whole.is_special, at, at + whole.text.size())) return &whole;
  }
  return nullptr;
}

std::vector<std::int32_t> SentencePieceTokenizer::encode(std::string_view text, bool parse_special,
                                                         EncodeCounts* counts) const {
  Repaired repaired;
  if (valid_utf8_prefix(text) != text.size()) {
    repaired = repair_utf8(text);
    text = repaired.utf8;
    if (counts != nullptr) counts->repaired_sequences += repaired.num_replaced;
  }
  return encode_names(text, NamesInText(parse_special), nullptr, counts);
}

std::vector<std::int32_t> SentencePieceTokenizer::encode_marked(const MarkedText& text,
                                                                std::vector<EncodedPiece>* pieces,
                                                                EncodeCounts* counts) const {
  return encode_names(text.text, NamesInText(text), pieces, counts);
}

/// Of valid UTF-8.
std::vector<std::int32_t> SentencePieceTokenizer::encode_names(std::string_view text, const NamesInText& names,
                                                               std::vector<EncodedPiece>* pieces,
                                                               EncodeCounts* counts) const {
  std::int64_t special_names = 0;
  std::vector<std::int32_t> ids;
  ids.reserve(text.size() / 3);
  std::size_t start = 0;  // of the ordinary text before `at`
  const auto encode_until = [&](std::size_t end) {
    if (pieces != nullptr && start < end) pieces->push_back({.begin = start, .end = end, .first_id = ids.size()});
    encode_ordinary(text.substr(start, end - start), ids);
  };
  for (std::size_t at = 0; at < text.size();) {
    bool is_special_name = false;
    const CutToken* whole = find_whole(text, at, names, is_special_name);
    special_names += is_special_name && names.is_told(whole != nullptr) ? 1 : 0;
    if (whole == nullptr) {
      ++at;
      continue;
    }
    std::size_t end = at;
    if (whole->strips_left) end -= space_at_end(text.substr(start, end - start));
    encode_until(end);
    at += whole->text.size();
    if (whole->strips_right) at += space_in_front(text.substr(at));
    if (pieces != nullptr) pieces->push_back({.begin = end, .end = at, .first_id = ids.size(), .is_name = true});
    ids.push_back(whole->id);
    start = at;
  }
  encode_until(text.size());
  if (counts != nullptr) counts->special_names += special_names;
  return ids;
}

/// Long texts go to the library in parts, for it keeps some hundred bytes a character: cut at a space between letters,
/// where the parts' ids are those of the whole.
void SentencePieceTokenizer::encode_ordinary(std::string_view text, std::vector<std::int32_t>& ids) const {
  constexpr std::size_t part_bytes = 4096;
  std::vector<int> part;
  while (!text.empty()) {
    std::size_t end = cuts_at_spaces_ ? std::min(part_bytes, text.size()) : text.size();
    while (end < text.size() &&
           !(text[end] == ' ' && is_letter(text[end - 1]) && end + 1 < text.size() && is_letter(text[end + 1])))
      ++end;
    const auto status = processor_->Encode(text.substr(0, end), &part);
    check(status.ok(), "tokenizer: the SentencePiece library cannot encode a text of {} bytes: {}", end,
          status.ToString());
    ids.insert(ids.end(), part.begin(), part.end());
    const bool has_next = end < text.size();
    text.remove_prefix(end + (has_next && description_.model.add_dummy_prefix ? 1 : 0));
  }
}

/// Of an unigram or BPE model alike: which pieces there are, and the order that their scores give.
Cutting SentencePieceTokenizer::cutting() const {
  const SentencePieceModel& m = description_.model;
  Cutting cutting{.rules = fmt::format("sentencepiece {} {} {} {} {} {}", static_cast<int>(m.kind), m.byte_fallback,
                                       m.whitespace_as_suffix, m.add_dummy_prefix, m.remove_extra_whitespaces,
                                       m.escape_whitespaces),
                  .parts = {}};
  cutting.rules += "\ncharacters " + m.charsmap;
  for (const auto& [text, score, type] : m.pieces)
    if (type == Type::Normal || type == Type::Byte) cutting.parts.push_back(fmt::format("piece {} {}", text, score));
  std::ranges::sort(cutting.parts);
  return cutting;
}

const SentencePieceTokenizer::Token& SentencePieceTokenizer::token(std::int32_t id) const {
  check(id >= 0 && id < vocabulary_size(), "tokenizer: id {} is outside the vocabulary of {}", id, vocabulary_size());
  return tokens_[static_cast<std::size_t>(id)];
}

std::string SentencePieceTokenizer::decode_inside(std::int32_t id) const { return token(id).bytes; }

/// As the library's Decode: spaces that encoding put in front of the text are taken away; with remove_extra_whitespaces
/// all that stand there.
std::string SentencePieceTokenizer::decode(std::span<const std::int32_t> ids) const {
  const SentencePieceModel& model = description_.model;
  bool strips = model.add_dummy_prefix || model.remove_extra_whitespaces;
  bool has_stripped = false;
  std::string text;
  for (const auto id : ids) {
    const Token& t = token(id);
    std::string_view bytes = t.bytes;
    if (!t.is_byte) {
      if (has_stripped || !text.empty()) strips = false;
      has_stripped = false;
      if (strips && !t.is_empty && t.name.starts_with(space) && bytes.starts_with(' ')) {
        bytes.remove_prefix(1);
        has_stripped = !model.remove_extra_whitespaces;
      }
    }
    text += bytes;
  }
  return text;
}

}  // namespace limbeck::data
