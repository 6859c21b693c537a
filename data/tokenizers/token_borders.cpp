#include "data/tokenizers/token_borders.h"

#include <algorithm>

namespace limbeck::data {
namespace {

/// Walks over the tokens of one side.
class Walk {
 public:
  explicit Walk(std::span<const std::int64_t> borders) : borders_(borders) {}
  /// To the next token that has bytes; false: there is none.
  bool begin_span() {
    while (next_ < size() && end_of(next_) == begin_of(next_)) ++next_;
    first_ = next_;
    is_whole_ = true;
    return next_ < size();
  }
  /// Takes one more token, and those without bytes in front of it. False: there is none.
  bool take() {
    while (next_ < size() && end_of(next_) == begin_of(next_)) ++next_, is_whole_ = false;
    if (next_ == size()) return false;
    ++next_;
    return true;
  }
  std::int64_t begin() const { return begin_of(first_); }
  std::int64_t end() const { return begin_of(next_); }
  std::int64_t first() const { return static_cast<std::int64_t>(first_); }
  std::int64_t count() const { return static_cast<std::int64_t>(next_ - first_); }
  bool is_whole() const { return is_whole_; }

 private:
  std::size_t size() const { return borders_.size() - 1; }
  std::int64_t begin_of(std::size_t token) const { return borders_[token]; }
  std::int64_t end_of(std::size_t token) const { return borders_[token + 1]; }

  std::span<const std::int64_t> borders_;
  std::size_t first_ = 0, next_ = 0;
  bool is_whole_ = true;  // no token without bytes stands within the span
};

}  // namespace

bool is_without_text(const Tokenizer& tokenizer, std::int32_t id) {
  return id == tokenizer.end_of_text_id() || id == tokenizer.start_of_text_id() || tokenizer.is_special(id);
}

std::string text_of_tokens(const Tokenizer& tokenizer, std::span<const std::int32_t> ids, bool begins_text) {
  std::vector<std::int32_t> with_text;
  std::ranges::copy_if(ids, std::back_inserter(with_text),
                       [&](std::int32_t id) { return !is_without_text(tokenizer, id); });
  if (begins_text) return tokenizer.decode(with_text);
  std::string text;
  for (const std::int32_t id : with_text) text += tokenizer.decode_inside(id);
  return text;
}

std::optional<std::vector<std::int64_t>> token_borders(const Tokenizer& tokenizer, std::span<const std::int32_t> ids,
                                                       std::string_view text) {
  std::string bytes;
  std::vector<std::int64_t> borders = {0};
  for (const std::int32_t id : ids) {
    if (!is_without_text(tokenizer, id)) bytes += tokenizer.decode_inside(id);
    borders.push_back(std::ssize(bytes));
  }
  const bool has_space = bytes.size() == text.size() + 1 && bytes.front() == ' ';
  if (std::string_view(bytes).substr(has_space ? 1 : 0) != text) return std::nullopt;
  if (has_space)
    for (std::int64_t& border : borders) border = std::max<std::int64_t>(border - 1, 0);
  return borders;
}

std::vector<CommonSpan> common_spans(std::span<const std::int64_t> borders, std::span<const std::int64_t> others) {
  std::vector<CommonSpan> spans;
  Walk one(borders), other(others);
  while (one.begin_span() && other.begin_span()) {
    if (one.begin() != other.begin()) {  // one side has more text in front
      (one.begin() < other.begin() ? one : other).take();
      continue;
    }
    if (!one.take() || !other.take()) break;
    while (one.end() != other.end())
      if (!(one.end() < other.end() ? one.take() : other.take())) return spans;
    if (one.is_whole() && other.is_whole())
      spans.push_back({one.first(), one.count(), other.first(), other.count(), one.end() - one.begin()});
  }
  return spans;
}

}  // namespace limbeck::data
