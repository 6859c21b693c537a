#include "data/tokenizers/sentencepiece_model.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <set>
#include <unordered_map>

#include "core/error.h"
#include "data/tokenizers/unicode.h"

namespace limbeck::data {

using core::check;
using core::fail;
using Type = SentencePieceModel::Type;

namespace {

// Field numbers of sentencepiece_model.proto.
struct ModelField {
  static constexpr std::uint32_t pieces = 1, trainer_spec = 2, normalizer_spec = 3, denormalizer_spec = 5;
};
struct PieceField {
  static constexpr std::uint32_t text = 1, score = 2, type = 3;
};
struct TrainerField {
  static constexpr std::uint32_t model_type = 3, vocab_size = 4, treat_whitespace_as_suffix = 24, byte_fallback = 35,
                                 unk_id = 40, bos_id = 41, eos_id = 42, pad_id = 43, unk_surface = 44, unk_piece = 45,
                                 bos_piece = 46, eos_piece = 47, pad_piece = 48;
};
struct NormalizerField {
  static constexpr std::uint32_t name = 1, precompiled_charsmap = 2, add_dummy_prefix = 3, remove_extra_whitespaces = 4,
                                 escape_whitespaces = 5;
};

enum class Wire : std::uint32_t { Varint = 0, Fixed64 = 1, Bytes = 2, Fixed32 = 5 };

/// The fields of one message, front to back.
class Fields {
 public:
  Fields(std::string_view bytes, std::size_t start, const std::string& where, const char* message)
      : bytes_(bytes), start_(start), where_(where), message_(message) {}

  /// Goes to the next field; false at the end.
  bool next() {
    if (at_ == bytes_.size()) return false;
    const std::size_t begin = at_;
    const std::uint64_t tag = read_varint();
    number_ = static_cast<std::uint32_t>(tag >> 3U);
    wire_ = static_cast<Wire>(tag & 7U);
    check((tag >> 3U) >= 1 && (tag >> 3U) < (1U << 29U),
          "{}: byte {}: {} has a field number {}, expected 1 to 536870911", where_, start_ + begin, message_,
          tag >> 3U);
    value_at_ = at_;
    switch (wire_) {
      case Wire::Varint:
        number_value_ = read_varint();
        return true;
      case Wire::Fixed32:
        take(4);
        return true;
      case Wire::Fixed64:
        take(8);
        return true;
      case Wire::Bytes: {
        const std::uint64_t length = read_varint();
        value_at_ = at_;
        take(length);
        return true;
      }
    }
    fail("{}: byte {}: {} has a field of wire type {}, expected 0, 1, 2 or 5: this is no SentencePiece model", where_,
         start_ + begin, message_, tag & 7U);
  }

  std::uint32_t number() const { return number_; }
  std::string_view bytes() const { return expect(Wire::Bytes), value_; }
  std::uint64_t varint() const { return expect(Wire::Varint), number_value_; }
  bool flag() const { return varint() != 0; }
  float number32() const {
    expect(Wire::Fixed32);
    float value = 0;
    std::memcpy(&value, value_.data(), sizeof value);
    return value;
  }
  /// The field's own fields.
  Fields nested(const char* message) const { return {bytes(), start_ + value_at_, where_, message}; }
  std::string utf8() const {
    check(valid_utf8_prefix(bytes()) == value_.size(), "{}: byte {}: field {} of {} is not valid UTF-8", where_,
          start_ + value_at_, number_, message_);
    return std::string(value_);
  }

 private:
  std::uint64_t read_varint() {
    std::uint64_t value = 0;
    for (unsigned shift = 0; shift < 64; shift += 7) {
      check(at_ < bytes_.size(), "{}: byte {}: {} ends where a number was expected", where_, start_ + at_, message_);
      const auto byte = static_cast<unsigned char>(bytes_[at_++]);
      value |= static_cast<std::uint64_t>(byte & 0x7fU) << shift;
      if (byte < 0x80) return value;
    }
    fail("{}: byte {}: a number of {} has more than 10 bytes", where_, start_ + at_, message_);
  }
  void take(std::uint64_t length) {
    check(length <= bytes_.size() - at_, "{}: byte {}: field {} of {} has {} bytes, but only {} are left", where_,
          start_ + at_, number_, message_, length, bytes_.size() - at_);
    value_ = bytes_.substr(at_, length);
    at_ += length;
  }
  void expect(Wire wire) const {
    check(wire_ == wire, "{}: byte {}: field {} of {} has wire type {}, expected {}", where_, start_ + value_at_,
          number_, message_, static_cast<std::uint32_t>(wire_), static_cast<std::uint32_t>(wire));
  }

  std::string_view bytes_;
  std::size_t start_;  // of bytes_ in the file
  const std::string& where_;
  const char* message_;
  std::size_t at_ = 0;
  std::size_t value_at_ = 0;
  std::uint32_t number_ = 0;
  Wire wire_ = Wire::Varint;
  std::uint64_t number_value_ = 0;
  std::string_view value_;
};

SentencePieceModel::Piece parse_piece(Fields fields, std::size_t id, const std::string& where) {
  SentencePieceModel::Piece piece;
  while (fields.next()) {
    if (fields.number() == PieceField::text) piece.text = fields.bytes();
    if (fields.number() == PieceField::score) piece.score = fields.number32();
    if (fields.number() == PieceField::type) {
      const std::uint64_t value = fields.varint();
      check(value >= 1 && value <= 6, "{}: piece {} has type {}, expected 1 to 6", where, id, value);
      piece.type = static_cast<Type>(value);
    }
  }
  return piece;
}

void parse_trainer(Fields fields, SentencePieceModel& model, const std::string& where) {
  while (fields.next()) {
    switch (fields.number()) {
      case TrainerField::model_type: {
        const std::uint64_t value = fields.varint();
        check(value == 1 || value == 2, "{}: model_type is {}, expected 1 (unigram) or 2 (BPE)", where, value);
        model.kind = static_cast<SentencePieceModel::Kind>(value);
        break;
      }
      case TrainerField::treat_whitespace_as_suffix:
        model.whitespace_as_suffix = fields.flag();
        break;
      case TrainerField::byte_fallback:
        model.byte_fallback = fields.flag();
        break;
      case TrainerField::unk_surface:
        model.unk_surface = fields.utf8();
        break;
      case TrainerField::unk_piece:
        model.unk_piece = fields.utf8();
        break;
      case TrainerField::bos_piece:
        model.bos_piece = fields.utf8();
        break;
      case TrainerField::eos_piece:
        model.eos_piece = fields.utf8();
        break;
      case TrainerField::pad_piece:
        model.pad_piece = fields.utf8();
        break;
      default:
        break;
    }
  }
}

void parse_normalizer(Fields fields, SentencePieceModel& model) {
  while (fields.next()) {
    if (fields.number() == NormalizerField::name) model.normalizer_name = fields.utf8();
    if (fields.number() == NormalizerField::precompiled_charsmap) model.charsmap = fields.bytes();
    if (fields.number() == NormalizerField::add_dummy_prefix) model.add_dummy_prefix = fields.flag();
    if (fields.number() == NormalizerField::remove_extra_whitespaces) model.remove_extra_whitespaces = fields.flag();
    if (fields.number() == NormalizerField::escape_whitespaces) model.escape_whitespaces = fields.flag();
  }
}

class Writer {
 public:
  void varint(std::uint32_t field, std::uint64_t value) {
    put(static_cast<std::uint64_t>(field) << 3U);
    put(value);
  }
  void bytes(std::uint32_t field, std::string_view value) {
    put(static_cast<std::uint64_t>(field) << 3U | 2U);
    put(value.size());
    out += value;
  }
  void number32(std::uint32_t field, float value) {
    put(static_cast<std::uint64_t>(field) << 3U | 5U);
    const auto word = std::bit_cast<std::array<char, 4>>(value);
    out.append(word.data(), word.size());
  }
  std::string out;

 private:
  void put(std::uint64_t value) {
    for (; value >= 0x80; value >>= 7U) out.push_back(static_cast<char>(value | 0x80U));
    out.push_back(static_cast<char>(value));
  }
};

void check_pieces(const SentencePieceModel& model, const std::string& where) {
  constexpr std::size_t longest = 4096;  // bytes; the library recurses along an unused piece
  std::unordered_map<std::string_view, std::size_t> of_text;
  std::unordered_map<std::string_view, std::size_t> reserved;
  std::vector<bool> bytes(256);
  std::int64_t num_unknown = 0;
  std::int64_t num_normal = 0;
  for (std::size_t id = 0; id < model.pieces.size(); ++id) {
    const auto& [piece, value, kind] = model.pieces[id];
    check(!piece.empty() && piece.size() <= longest, "{}: piece {} has {} bytes, expected 1 to {}", where, id,
          piece.size(), longest);
    check(valid_utf8_prefix(piece) == piece.size() && piece.find('\0') == std::string::npos,
          "{}: piece {} is not valid UTF-8 without NUL", where, id);
    check(std::isfinite(value), "{}: piece {} has a score of {}, expected a finite number", where, id, value);
    const bool is_text = kind == Type::Normal || kind == Type::UserDefined || kind == Type::Unused;
    const auto [first, is_new] = (is_text ? of_text : reserved).emplace(piece, id);
    check(is_new, "{}: pieces {} and {} are the same", where, first->second, id);
    num_unknown += kind == Type::Unknown ? 1 : 0;
    num_normal += kind == Type::Normal ? 1 : 0;
    if (kind != Type::Byte) continue;
    const int byte = byte_of_piece(piece);
    check(byte >= 0, "{}: piece {} has type byte, but is none of <0x00> to <0xFF>", where, id);
    bytes[static_cast<std::size_t>(byte)] = true;
  }
  check(num_unknown == 1, "{}: {} pieces are of type unknown, expected 1", where, num_unknown);
  check(num_normal > 0, "{}: no piece is of type normal", where);
  const auto num_bytes = std::count(bytes.begin(), bytes.end(), true);
  check(num_bytes == (model.byte_fallback ? 256 : 0), "{}: {} pieces are bytes, expected {} as byte_fallback is {}",
        where, num_bytes, model.byte_fallback ? 256 : 0, model.byte_fallback);
}

/// The library finds at most 64 user-defined pieces that begin at one place.
void check_user_defined(const SentencePieceModel& model, const std::string& where) {
  std::set<std::string_view> all;
  for (const auto& piece : model.pieces)
    if (piece.type == Type::UserDefined) all.insert(piece.text);
  std::vector<std::string_view> prefixes;  // of the piece at hand, each a prefix of the next: pieces come in order
  for (const std::string_view piece : all) {
    while (!prefixes.empty() && !piece.starts_with(prefixes.back())) prefixes.pop_back();
    prefixes.push_back(piece);
    check(prefixes.size() < 64, "{}: 64 user-defined pieces begin with one another, expected fewer", where);
  }
}

}  // namespace

int byte_of_piece(std::string_view text) {
  constexpr std::string_view digits = "0123456789ABCDEF";
  if (text.size() != 6 || !text.starts_with("<0x") || text[5] != '>') return -1;
  const std::size_t high = digits.find(text[3]);
  const std::size_t low = digits.find(text[4]);
  return high == std::string_view::npos || low == std::string_view::npos ? -1 : static_cast<int>(high * 16 + low);
}

std::int32_t SentencePieceModel::id_of(std::string_view piece) const {
  std::int32_t found = -1;
  for (std::size_t id = 0; id < pieces.size(); ++id) {
    if (pieces[id].text != piece) continue;
    if (pieces[id].type == Type::Control || pieces[id].type == Type::Unknown) return static_cast<std::int32_t>(id);
    found = static_cast<std::int32_t>(id);
  }
  return found;
}

SentencePieceModel parse_sentencepiece_model(std::string_view bytes, const std::string& where) {
  SentencePieceModel model;
  Fields fields(bytes, 0, where, "the model");
  bool has_trainer = false;
  bool has_normalizer = false;
  while (fields.next()) {
    has_trainer |= fields.number() == ModelField::trainer_spec;
    has_normalizer |= fields.number() == ModelField::normalizer_spec;
    if (fields.number() == ModelField::pieces)
      model.pieces.push_back(parse_piece(fields.nested("a piece"), model.pieces.size(), where));
    if (fields.number() == ModelField::trainer_spec) parse_trainer(fields.nested("trainer_spec"), model, where);
    if (fields.number() == ModelField::normalizer_spec) parse_normalizer(fields.nested("normalizer_spec"), model);
    if (fields.number() == ModelField::denormalizer_spec) {
      SentencePieceModel denormalizer;
      parse_normalizer(fields.nested("denormalizer_spec"), denormalizer);
      check(denormalizer.charsmap.empty(), "{}: has a denormalizer, which is not supported: expected none", where);
    }
  }
  // They stand behind the pieces: a file that is cut between two pieces would otherwise look whole.
  check(model.pieces.empty() || (has_trainer && has_normalizer),
        "{}: ends after {} pieces, expected trainer_spec and normalizer_spec behind them", where, model.pieces.size());
  validate(model, where);
  return model;
}

void validate(const SentencePieceModel& model, const std::string& where) {
  check(!model.pieces.empty(), "{}: holds no pieces, expected a SentencePiece model", where);
  check(model.pieces.size() < (std::size_t{1} << 31U), "{}: holds {} pieces, expected fewer than 2^31", where,
        model.pieces.size());
  check_pieces(model, where);
  check_user_defined(model, where);
  if (!model.charsmap.empty()) check_charsmap(model.charsmap, where);
}

std::string serialize(const SentencePieceModel& model) {
  Writer out;
  for (const auto& piece : model.pieces) {
    Writer w;
    w.bytes(PieceField::text, piece.text);
    w.number32(PieceField::score, piece.score);
    w.varint(PieceField::type, static_cast<std::uint64_t>(piece.type));
    out.bytes(ModelField::pieces, w.out);
  }
  const auto id = [&](std::string_view piece) {  // a negative one is extended to 64 bits, as protobuf does
    return static_cast<std::uint64_t>(static_cast<std::int64_t>(model.id_of(piece)));
  };
  Writer trainer;
  trainer.varint(TrainerField::model_type, static_cast<std::uint64_t>(model.kind));
  trainer.varint(TrainerField::vocab_size, model.pieces.size());
  trainer.varint(TrainerField::treat_whitespace_as_suffix, model.whitespace_as_suffix ? 1 : 0);
  trainer.varint(TrainerField::byte_fallback, model.byte_fallback ? 1 : 0);
  trainer.varint(TrainerField::unk_id, id(model.unk_piece));
  trainer.varint(TrainerField::bos_id, id(model.bos_piece));
  trainer.varint(TrainerField::eos_id, id(model.eos_piece));
  trainer.varint(TrainerField::pad_id, id(model.pad_piece));
  trainer.bytes(TrainerField::unk_surface, model.unk_surface);
  trainer.bytes(TrainerField::unk_piece, model.unk_piece);
  trainer.bytes(TrainerField::bos_piece, model.bos_piece);
  trainer.bytes(TrainerField::eos_piece, model.eos_piece);
  trainer.bytes(TrainerField::pad_piece, model.pad_piece);
  out.bytes(ModelField::trainer_spec, trainer.out);
  Writer normalizer;
  normalizer.bytes(NormalizerField::name, model.normalizer_name);
  if (!model.charsmap.empty()) normalizer.bytes(NormalizerField::precompiled_charsmap, model.charsmap);
  normalizer.varint(NormalizerField::add_dummy_prefix, model.add_dummy_prefix ? 1 : 0);
  normalizer.varint(NormalizerField::remove_extra_whitespaces, model.remove_extra_whitespaces ? 1 : 0);
  normalizer.varint(NormalizerField::escape_whitespaces, model.escape_whitespaces ? 1 : 0);
  out.bytes(ModelField::normalizer_spec, normalizer.out);
  return std::move(out.out);
}

}  // namespace limbeck::data
