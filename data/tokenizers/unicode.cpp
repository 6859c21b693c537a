#include "data/tokenizers/unicode.h"

#include <array>
#include <cstring>

namespace limbeck::data {

namespace {

struct Step {
  std::size_t length;  // bytes of the character, or of the maximal part of one
  bool is_valid;
  bool is_cut;  // invalid only because the text ends
};

/// What stands at the front of a non-empty text (table 3-7 of the Unicode standard).
Step next(std::string_view text) {
  const auto at = [&](std::size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned char lead = at(0);
  if (lead < 0x80) return {1, true, false};
  if (lead < 0xc2 || lead > 0xf4) return {1, false, false};
  const std::size_t length = lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
  unsigned char low = 0x80;
  unsigned char high = 0xbf;
  if (lead == 0xe0) low = 0xa0;
  if (lead == 0xed) high = 0x9f;  // surrogates
  if (lead == 0xf0) low = 0x90;
  if (lead == 0xf4) high = 0x8f;
  for (std::size_t i = 1; i < length; ++i) {
    if (i == text.size()) return {i, false, true};
    if (at(i) < low || at(i) > high) return {i, false, false};
    low = 0x80;
    high = 0xbf;
  }
  return {length, true, false};
}

/// Bytes 33-126, 161-172 and 174-255 stand for themselves, the others follow from U+0100 on in order.
struct Alphabet {
  std::array<char32_t, 256> of_byte{};
  std::array<std::int16_t, 512> of_character{};

  constexpr Alphabet() {
    of_character.fill(-1);
    char32_t extra = 256;
    for (unsigned b = 0; b < 256; ++b) {
      const bool is_itself = (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
      of_byte[b] = is_itself ? b : extra++;
      of_character[of_byte[b]] = static_cast<std::int16_t>(b);
    }
  }
};
constexpr Alphabet alphabet;

}  // namespace

std::size_t ascii_prefix(std::string_view text) {
  std::size_t i = 0;
  for (; i + 8 <= text.size(); i += 8) {
    std::uint64_t word = 0;
    std::memcpy(&word, text.data() + i, 8);
    if ((word & 0x8080808080808080ULL) != 0) break;
  }
  while (i < text.size() && static_cast<unsigned char>(text[i]) < 0x80) ++i;
  return i;
}

std::size_t valid_utf8_prefix(std::string_view text) {
  std::size_t at = 0;
  while (true) {
    at += ascii_prefix(text.substr(at));
    if (at == text.size()) return at;
    const Step step = next(text.substr(at));
    if (!step.is_valid) return at;
    at += step.length;
  }
}

Repaired repair_utf8(std::string_view bytes) {
  Repaired result;
  result.utf8.reserve(bytes.size());
  while (true) {
    const std::size_t valid = valid_utf8_prefix(bytes);
    result.utf8.append(bytes.substr(0, valid));
    bytes.remove_prefix(valid);
    if (bytes.empty()) return result;
    result.utf8.append("\xef\xbf\xbd");
    ++result.num_replaced;
    bytes.remove_prefix(next(bytes).length);
  }
}

std::size_t unfinished_utf8(std::string_view text) {
  for (std::size_t length = 1; length <= 3 && length <= text.size(); ++length) {
    const std::string_view tail = text.substr(text.size() - length);
    const auto lead = static_cast<unsigned char>(tail[0]);
    if (lead >= 0xc0) {
      const Step step = next(tail);
      return step.is_cut && step.length == length ? length : 0;
    }
    if (lead < 0x80) return 0;
  }
  return 0;
}

std::u32string code_points(std::string_view utf8) {
  std::u32string result;
  for (std::size_t at = 0; at < utf8.size();) {
    const std::size_t length = next(utf8.substr(at)).length;
    char32_t c = static_cast<unsigned char>(utf8[at]);
    if (length > 1) c &= 0x7fU >> length;
    for (std::size_t i = 1; i < length; ++i) c = (c << 6U) | (static_cast<unsigned char>(utf8[at + i]) & 0x3fU);
    result.push_back(c);
    at += length;
  }
  return result;
}

std::string to_utf8(char32_t c) {
  const auto tail = [&](unsigned shift) { return static_cast<char>(0x80U | ((c >> shift) & 0x3fU)); };
  if (c < 0x80) return {static_cast<char>(c)};
  if (c < 0x800) return {static_cast<char>(0xc0U | (c >> 6U)), tail(0)};
  if (c < 0x10000) return {static_cast<char>(0xe0U | (c >> 12U)), tail(6), tail(0)};
  return {static_cast<char>(0xf0U | (c >> 18U)), tail(12), tail(6), tail(0)};
}

std::string alphabet_of_bytes(std::string_view bytes) {
  std::string result;
  for (const char byte : bytes) result += to_utf8(alphabet.of_byte[static_cast<unsigned char>(byte)]);
  return result;
}

std::optional<std::string> bytes_of_alphabet(std::string_view text) {
  if (valid_utf8_prefix(text) != text.size()) return std::nullopt;
  std::string result;
  for (const char32_t c : code_points(text)) {
    const int byte = c < alphabet.of_character.size() ? alphabet.of_character[c] : -1;
    if (byte < 0) return std::nullopt;
    result.push_back(static_cast<char>(byte));
  }
  return result;
}

}  // namespace limbeck::data
