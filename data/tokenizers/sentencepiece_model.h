// What a SentencePiece `.model` file holds (a protobuf message, ModelProto of sentencepiece_model.proto), read without
// trust: the library aborts or reads outside its memory on some broken models, so only one that has passed `validate`
// is given to it.
//
//     SentencePieceModel model = parse_sentencepiece_model(bytes, "tokenizer.model");   // parsed and validated
//     model.pieces[1].text;                                                             // "<s>"
//     std::string file = serialize(model);                                              // what the library and PyPI
//     read
//
// Kept is what encoding and decoding depend on; the record of the training and its self-test are left out.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace limbeck::data {

struct SentencePieceModel {
  enum class Kind : std::uint8_t { Unigram = 1, Bpe = 2 };
  /// The numbers of tokenizer.ggml.token_type are the same.
  enum class Type : std::uint8_t { Normal = 1, Unknown = 2, Control = 3, UserDefined = 4, Unused = 5, Byte = 6 };
  struct Piece {
    std::string text;  // a space is U+2581
    float score = 0;
    Type type = Type::Normal;
    friend bool operator==(const Piece&, const Piece&) = default;
  };

  std::vector<Piece> pieces;
  Kind kind = Kind::Unigram;
  bool byte_fallback = false;  // characters without a piece become bytes: the 256 pieces <0x00> to <0xFF>
  bool whitespace_as_suffix = false;
  std::string unk_piece = "<unk>";
  std::string bos_piece = "<s>";
  std::string eos_piece = "</s>";
  std::string pad_piece = "<pad>";
  std::string unk_surface = " \xe2\x81\x87 ";  // what the unknown piece decodes to
  // The normalizer: a compiled table of replacements (empty: none), then spaces.
  std::string normalizer_name;
  std::string charsmap;
  bool add_dummy_prefix = true;  // a space in front of every text
  bool remove_extra_whitespaces = true;
  bool escape_whitespaces = true;
  friend bool operator==(const SentencePieceModel&, const SentencePieceModel&) = default;

  /// The id of a piece that stands in for no text (control, unknown), or else of any; -1: none.
  std::int32_t id_of(std::string_view text) const;
};

/// The byte that a piece <0x00> to <0xFF> stands for; -1 for other text.
int byte_of_piece(std::string_view text);

/// Throws, naming `where` and the byte, field or piece, for anything but a whole and valid model.
SentencePieceModel parse_sentencepiece_model(std::string_view bytes, const std::string& where);
/// Throws, naming `where` and the piece, unless the library can be given the model.
void validate(const SentencePieceModel& model, const std::string& where);
/// A ModelProto of this content.
std::string serialize(const SentencePieceModel& model);

/// Of a normalizer's table: throws, naming `where`, unless every text that the library looks up stays inside of it.
/// Returns whether some rule replaces characters on both sides of a space.
bool check_charsmap(std::string_view charsmap, const std::string& where);

}  // namespace limbeck::data
