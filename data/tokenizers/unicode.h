// UTF-8 as tokenizers need it: repair of invalid bytes, and GPT-2's alphabet in which every byte is a printable
// character.
//
//     Repaired text = repair_utf8(bytes);        // text.utf8 is valid
//     std::string token = alphabet_of_bytes("\n");  // "Ċ"
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace limbeck::data {

/// Length of the longest prefix of `text` below U+0080.
std::size_t ascii_prefix(std::string_view text);

/// Length of the longest valid UTF-8 prefix of `text`.
std::size_t valid_utf8_prefix(std::string_view text);

struct Repaired {
  std::string utf8;
  std::int64_t num_replaced = 0;  // U+FFFD put in
};
/// Exactly Python's bytes.decode("utf-8", errors="replace"): each maximal part of an ill-formed sequence becomes one
/// U+FFFD (Unicode 15, section 3.9, "U+FFFD substitution of maximal subparts").
Repaired repair_utf8(std::string_view bytes);

/// At the end of `text` (valid otherwise), the number of bytes of a character that has begun but not ended: 0 to 3.
std::size_t unfinished_utf8(std::string_view text);

/// The code points of valid UTF-8.
std::u32string code_points(std::string_view utf8);
std::string to_utf8(char32_t code_point);

/// GPT-2's byte alphabet (bytes_to_unicode in its encoder.py): the character that stands for each byte.
std::string alphabet_of_bytes(std::string_view bytes);
/// The bytes that a string of the alphabet stands for; nothing where a character is outside of it or `text` is not
/// UTF-8.
std::optional<std::string> bytes_of_alphabet(std::string_view text);

}  // namespace limbeck::data
