#include "data/tasks/exact_match.h"

#include <algorithm>
#include <array>

#include "data/tasks/python_text.h"

namespace limbeck::data {

namespace {

constexpr std::string_view mark = "#### ";

bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool is_of_number(char c) { return is_digit(c) || c == '.' || c == ','; }
bool is_of_price(char c) { return is_of_number(c) || c == '$'; }

/// How many of the characters from `start` on are of a class.
std::size_t run_length(std::string_view text, std::size_t start, bool (*is_in)(char)) {
  const auto rest = text.substr(std::min(start, text.size()));
  return static_cast<std::size_t>(std::find_if_not(rest.begin(), rest.end(), is_in) - rest.begin());
}

/// Without what the regular expressions of regexes_to_ignore take away, one after the other.
std::string bare(std::string_view text) {
  std::string result = replaced(replaced(text, ",", ""), "$", "");
  if (const std::size_t last = result.rfind(mark); last != std::string::npos) result.erase(0, last + mark.size());
  const std::size_t line_end = result.ends_with('\n') ? 1 : 0;  // `$` stands before the last line end too
  const std::size_t size = result.size() - line_end;
  if (result.ends_with('.'))
    result.pop_back();
  else if (size > 0 && result[size - 1] == '.')
    result.erase(size - 1, 1);
  return lowered(result);
}

}  // namespace

std::string strict_answer(std::string_view text) {
  for (std::size_t at = text.find(mark); at != std::string_view::npos; at = text.find(mark, at + 1)) {
    const std::size_t start = at + mark.size();
    const std::size_t sign = start < text.size() && text[start] == '-' ? 1 : 0;
    if (const std::size_t length = run_length(text, start + sign, is_of_number); length > 0)
      return std::string(text.substr(start, sign + length));
  }
  return no_answer;
}

std::string flexible_answer(std::string_view text) {
  std::string last = no_answer;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t sign = text[at] == '-' ? 1 : 0;
    std::size_t length = run_length(text, at + sign, is_of_price);
    if (length < 2) length = run_length(text, at + sign, is_digit);
    if (length == 0) {
      ++at;
      continue;
    }
    last = text.substr(at, sign + length);
    at += sign + length;
  }
  return last;
}

bool exactly_matches(std::string_view answer, std::string_view reference) { return bare(answer) == bare(reference); }

std::string_view before_next_question(std::string_view generated) {
  for (const std::string_view end : std::array<std::string_view, 3>{"Question:", "</s>", "<|im_end|>"})
    generated = generated.substr(0, generated.find(end));
  return generated;
}

}  // namespace limbeck::data
