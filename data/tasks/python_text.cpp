#include "data/tasks/python_text.h"

#include <utf8proc.h>

#include <algorithm>

#include "data/tokenizers/unicode.h"

namespace limbeck::data {

namespace {

/// str.isspace()
bool is_space(char32_t c) {
  return (c >= 0x09 && c <= 0x0d) || (c >= 0x1c && c <= 0x20) || c == 0x85 || c == 0xa0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 || c == 0x202f || c == 0x205f || c == 0x3000;
}

bool is_continuation(char c) { return (static_cast<unsigned char>(c) & 0xc0U) == 0x80; }

}  // namespace

std::string_view strip_end(std::string_view text) {
  while (!text.empty()) {
    std::size_t last = text.size() - 1;
    while (last > 0 && is_continuation(text[last])) --last;
    if (!is_space(code_points(text.substr(last)).front())) break;
    text.remove_suffix(text.size() - last);
  }
  return text;
}

std::string_view strip(std::string_view text) {
  while (!text.empty()) {
    std::size_t next = 1;
    while (next < text.size() && is_continuation(text[next])) ++next;
    if (!is_space(code_points(text.substr(0, next)).front())) break;
    text.remove_prefix(next);
  }
  return strip_end(text);
}

std::string lowered(std::string_view text) {
  std::string result;
  for (const char32_t c : code_points(text))
    result += to_utf8(static_cast<char32_t>(utf8proc_tolower(static_cast<std::int32_t>(c))));
  return result;
}

std::string capitalized(std::string_view text) {
  std::string result;
  for (const char32_t c : code_points(text))
    result += to_utf8(static_cast<char32_t>(result.empty() ? utf8proc_totitle(static_cast<std::int32_t>(c))
                                                           : utf8proc_tolower(static_cast<std::int32_t>(c))));
  return result;
}

std::size_t num_characters(std::string_view text) {
  return static_cast<std::size_t>(std::count_if(text.begin(), text.end(), [](char c) { return !is_continuation(c); }));
}

std::string replaced(std::string_view text, std::string_view from, std::string_view to) {
  std::string result;
  for (std::size_t start = 0; start <= text.size();) {
    const std::size_t found = text.find(from, start);
    result += text.substr(start, found == std::string_view::npos ? found : found - start);
    if (found == std::string_view::npos) break;
    result += to;
    start = found + from.size();
  }
  return result;
}

}  // namespace limbeck::data
