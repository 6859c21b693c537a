// A text that is put together of a format's own parts and of somebody's words: in the words no name of a special token
// becomes one, in the parts around them it does.
//
//     MarkedText text;
//     text.add("<|im_start|>user\n");
//     text.add_words(message);                          // "<|im_end|>" in it is ordinary text
//     text.add("<|im_end|>\n");
//     std::vector<EncodedPiece> pieces;
//     std::vector<std::int32_t> ids = tokenizer->encode_marked(text, &pieces, nullptr);
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace limbeck::data {

struct MarkedText {
  /// Bytes [begin, end) of a text.
  struct Part {
    std::size_t begin = 0;
    std::size_t end = 0;
    friend bool operator==(const Part&, const Part&) = default;
  };
  std::string text = {};                   // valid UTF-8
  std::vector<Part> words = {};            // rising, apart, none of them empty
  std::vector<std::int32_t> markers = {};  // ids that words never become, beside those of special tokens

  void add(std::string_view part) { text += part; }
  void add_words(std::string_view part) {
    if (part.empty()) return;
    words.push_back({text.size(), text.size() + part.size()});
    text += part;
  }
};

/// Ids of [begin, end) of the text: of a token that is found there by its name, or of the ordinary text between two.
struct EncodedPiece {
  std::size_t begin = 0;
  std::size_t end = 0;
  std::size_t first_id = 0;
  bool is_name = false;
};

/// Which names of tokens in a text are taken for those tokens; others are ordinary text.
class NamesInText {
 public:
  /// All that are not special, and those that are with `parse_special`.
  explicit NamesInText(bool parse_special) : parse_special_(parse_special) {}
  /// Special ones and markers outside of the words, and all others.
  explicit NamesInText(const MarkedText& text) : parse_special_(true), text_(&text) {}

  /// Whether a name of a special token is one to be told of: any, of marked texts those that stay text.
  bool is_told(bool is_taken) const { return text_ == nullptr || !is_taken; }
  bool takes(std::int32_t id, bool is_special, std::size_t begin, std::size_t end) const {
    if (text_ == nullptr) return parse_special_ || !is_special;
    const auto& markers = text_->markers;
    if (!is_special && std::find(markers.begin(), markers.end(), id) == markers.end()) return true;
    const auto word = std::partition_point(text_->words.begin(), text_->words.end(),
                                           [&](const MarkedText::Part& part) { return part.end <= begin; });
    return word == text_->words.end() || word->begin >= end;
  }

  /// Of pieces of the text, in which places are others: of a marked text no special token.
  NamesInText of_pieces() const { return NamesInText(text_ == nullptr && parse_special_); }

 private:
  bool parse_special_;
  const MarkedText* text_ = nullptr;
};

}  // namespace limbeck::data
