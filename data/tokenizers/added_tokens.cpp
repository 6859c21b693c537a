#include "data/tokenizers/added_tokens.h"

#include <utf8proc.h>

#include <algorithm>
#include <utility>

#include "data/tokenizers/unicode.h"

namespace limbeck::data {

namespace {

/// \w of Rust's regex: Alphabetic, marks, decimal digits, connectors, joiners (Unicode Technical Standard 18, annex C).
bool is_word(char32_t c) {
  switch (utf8proc_category(static_cast<std::int32_t>(c))) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_PC:
      return true;
    default:  // joiners, and the symbols that are Alphabetic: circled, squared letters
      return c == 0x200c || c == 0x200d || (c >= 0x24b6 && c <= 0x24e9) || (c >= 0x1f130 && c <= 0x1f149) ||
             (c >= 0x1f150 && c <= 0x1f169) || (c >= 0x1f170 && c <= 0x1f189);
  }
}

/// White_Space.
bool is_space(char32_t c) {
  return (c >= 9 && c <= 13) || c == 0x20 || c == 0x85 || c == 0xa0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200a) ||
         c == 0x2028 || c == 0x2029 || c == 0x202f || c == 0x205f || c == 0x3000;
}

constexpr bool continues(char byte) { return (static_cast<unsigned char>(byte) & 0xc0U) == 0x80; }

std::string_view last_character(std::string_view text) {
  std::size_t begin = text.size();
  while (begin > 0 && continues(text[--begin])) {
  }
  return text.substr(begin);
}

std::string_view first_character(std::string_view text) {
  std::size_t end = text.empty() ? 0 : 1;
  while (end < text.size() && continues(text[end])) ++end;
  return text.substr(0, end);
}

bool holds(std::string_view character, bool (*property)(char32_t)) {
  return !character.empty() && property(code_points(character)[0]);
}

}  // namespace

std::size_t space_in_front(std::string_view text) {
  std::size_t bytes = 0;
  while (holds(first_character(text.substr(bytes)), is_space)) bytes += first_character(text.substr(bytes)).size();
  return bytes;
}

std::size_t space_at_end(std::string_view text) {
  std::size_t bytes = 0;
  while (bytes < text.size()) {
    const std::string_view last = last_character(text.substr(0, text.size() - bytes));
    if (!holds(last, is_space)) break;
    bytes += last.size();
  }
  return bytes;
}

AddedTokens::AddedTokens(std::vector<Entry> entries) : entries_(std::move(entries)) {
  std::stable_sort(entries_.begin(), entries_.end(), [](const Entry& a, const Entry& b) { return a.text < b.text; });
  for (const Entry& entry : entries_) starts_[static_cast<unsigned char>(entry.text[0])] = true;
}

/// Narrows the sorted entries to those that begin as the text does, a byte at a time.
const AddedTokens::Entry* AddedTokens::longest(std::string_view text) const {
  const Entry* best = nullptr;
  auto first = entries_.begin();
  auto last = entries_.end();
  for (std::size_t i = 0; i < text.size(); ++i) {
    const auto c = static_cast<unsigned char>(text[i]);
    const auto byte_of = [i](const Entry& e) { return static_cast<unsigned char>(e.text[i]); };
    first = std::partition_point(first, last, [&](const Entry& e) { return e.text.size() <= i || byte_of(e) < c; });
    last = std::partition_point(first, last, [&](const Entry& e) { return byte_of(e) <= c; });
    if (first == last) break;
    if (first->text.size() == i + 1) best = &*first;
  }
  return best;
}

bool AddedTokens::adjust(const AddedToken& token, std::string_view text, std::size_t done, Range& range) {
  if (token.single_word && (holds(last_character(text.substr(0, range.begin)), is_word) ||
                            holds(first_character(text.substr(range.end)), is_word)))
    return false;
  if (token.lstrip && range.begin > done) range.begin -= space_at_end(text.substr(done, range.begin - done));
  if (token.rstrip) range.end += space_in_front(text.substr(range.end));
  return true;
}

}  // namespace limbeck::data
