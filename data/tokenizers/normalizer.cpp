#include "data/tokenizers/normalizer.h"

#include <utf8proc.h>

#include <algorithm>
#include <array>
#include <utility>

#include "core/error.h"
#include "data/tokenizers/unicode.h"

namespace limbeck::data {

namespace {

struct Range {
  char32_t first;
  char32_t last;
};

template <std::size_t N>
bool is_in(const std::array<Range, N>& ranges, char32_t c) {
  const auto after =
      std::upper_bound(ranges.begin(), ranges.end(), c, [](char32_t x, const Range& r) { return x < r.first; });
  return after != ranges.begin() && c <= (after - 1)->last;
}

// Characters to which utf8proc (Unicode 15) gives a decomposition or a combining class, or that compose (U+11930), and
// the oracle does not: `tokenizers` normalises by a table of Unicode 9.
constexpr std::array unknown_to_oracle = std::to_array<Range>(
    {{0x7fd, 0x7fd},     {0x898, 0x89f},     {0x8ca, 0x8d3},     {0x9fe, 0x9fe},     {0xc3c, 0xc3c},
     {0xd3b, 0xd3c},     {0xeba, 0xeba},     {0x1715, 0x1715},   {0x1abf, 0x1ace},   {0x1df6, 0x1dfa},
     {0x32ff, 0x32ff},   {0xa7f2, 0xa7f4},   {0xa82c, 0xa82c},   {0xab69, 0xab69},   {0x10781, 0x10785},
     {0x10787, 0x107b0}, {0x107b2, 0x107ba}, {0x10d24, 0x10d27}, {0x10eab, 0x10eac}, {0x10efd, 0x10eff},
     {0x10f46, 0x10f50}, {0x10f82, 0x10f85}, {0x11070, 0x11070}, {0x1133b, 0x1133b}, {0x1145e, 0x1145e},
     {0x11839, 0x1183a}, {0x11930, 0x11930}, {0x11938, 0x11938}, {0x1193d, 0x1193e}, {0x11943, 0x11943},
     {0x119e0, 0x119e0}, {0x11a34, 0x11a34}, {0x11a47, 0x11a47}, {0x11a99, 0x11a99}, {0x11d42, 0x11d42},
     {0x11d44, 0x11d45}, {0x11d97, 0x11d97}, {0x11f41, 0x11f42}, {0x16ff0, 0x16ff1}, {0x1e030, 0x1e06d},
     {0x1e08f, 0x1e08f}, {0x1e130, 0x1e136}, {0x1e2ae, 0x1e2ae}, {0x1e2ec, 0x1e2ef}, {0x1e4ec, 0x1e4ef},
     {0x1f16c, 0x1f16c}, {0x1fbf0, 0x1fbf9}});

// Common characters that are themselves in form C whatever stands beside them, save marks that follow: Latin, Cyrillic,
// punctuation, Kana, Han, Hangul.
constexpr std::array plain_in_nfc = std::to_array<Range>({{0, 0x2ff},
                                                          {0x400, 0x482},
                                                          {0x2010, 0x2027},
                                                          {0x3001, 0x3029},
                                                          {0x3041, 0x3096},
                                                          {0x30a1, 0x30fa},
                                                          {0x3400, 0x9fff},
                                                          {0xac00, 0xd7a3},
                                                          {0xff01, 0xff9d}});

int combining_class(std::int32_t c) { return utf8proc_get_property(c)->combining_class; }

/// Decomposed characters of a span, brought into order and composed when it ends.
class Span {
 public:
  explicit Span(UnicodeForm form)
      : composes_(form == UnicodeForm::Nfc || form == UnicodeForm::Nfkc),
        options_(static_cast<utf8proc_option_t>(
            UTF8PROC_STABLE | UTF8PROC_DECOMPOSE |
            (form == UnicodeForm::Nfkc || form == UnicodeForm::Nfkd ? UTF8PROC_COMPAT : 0))) {}

  void add(char32_t c) {
    std::array<std::int32_t, 32> parts{};  // the longest decomposition has 18
    int boundary = 0;
    const auto count = utf8proc_decompose_char(static_cast<std::int32_t>(c), parts.data(),
                                               static_cast<utf8proc_ssize_t>(parts.size()), options_, &boundary);
    core::check(count >= 0 && count <= static_cast<utf8proc_ssize_t>(parts.size()),
                "normalizer: U+{:04X} has no decomposition of at most {} characters", static_cast<std::uint32_t>(c),
                parts.size());
    points_.insert(points_.end(), parts.begin(), parts.begin() + count);
  }

  void finish(std::string& out) {
    const auto is_starter = [](std::int32_t c) { return combining_class(c) == 0; };
    for (auto run = points_.begin(); run != points_.end();) {
      run = std::find_if_not(run, points_.end(), is_starter);
      const auto end = std::find_if(run, points_.end(), is_starter);
      // utf8proc's own sort takes time that is quadratic in the number of marks.
      std::stable_sort(run, end, [](auto a, auto b) { return combining_class(a) < combining_class(b); });
      run = end;
    }
    if (composes_) {
      const auto left = utf8proc_normalize_utf32(points_.data(), static_cast<utf8proc_ssize_t>(points_.size()),
                                                 static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE));
      points_.resize(static_cast<std::size_t>(left));
    }
    for (const auto c : points_) out += to_utf8(static_cast<char32_t>(c));
    points_.clear();
  }

 private:
  bool composes_;
  utf8proc_option_t options_;
  std::vector<std::int32_t> points_;
};

}  // namespace

std::string unicode_form(std::string_view text, UnicodeForm form) {
  std::string out;
  out.reserve(text.size());
  Span span(form);
  while (true) {
    const std::size_t ascii = ascii_prefix(text);
    if (ascii == text.size()) return out += text;
    // The last of the ASCII characters may compose with what follows; nothing composes to the left of one.
    const std::size_t begin = ascii == 0 ? 0 : ascii - 1;
    out += text.substr(0, begin);
    std::size_t end = ascii;
    while (end < text.size() && static_cast<unsigned char>(text[end]) >= 0x80) ++end;
    const std::u32string points = code_points(text.substr(begin, end - begin));
    if (form == UnicodeForm::Nfc &&
        std::all_of(points.begin(), points.end(), [](char32_t c) { return is_in(plain_in_nfc, c); })) {
      out += text.substr(begin, end - begin);
    } else {
      for (const char32_t c : points) {
        if (c >= unknown_to_oracle.front().first && is_in(unknown_to_oracle, c)) {
          span.finish(out);
          out += to_utf8(c);
        } else {
          span.add(c);
        }
      }
      span.finish(out);
    }
    text.remove_prefix(end);
  }
}

std::size_t most_bytes_of(std::size_t size) { return 64 * (size + 16); }

Normalizer::Normalizer(std::span<const NormalizerStep> steps, std::string_view where) : where_(where) {
  for (const auto& step : steps)
    steps_.push_back(
        {step, step.kind == NormalizerStep::Kind::Replace ? std::optional(Regex(step.pattern, where)) : std::nullopt});
}

std::string Normalizer::apply(std::string_view text) const {
  const std::size_t most = most_bytes_of(text.size());
  std::string result(text);
  for (const auto& [rule, regex] : steps_) {
    const auto check_growth = [&](std::size_t size) {
      core::check(size <= most, "{}: its normalizer makes more than {} bytes of a text of {}", where_, most,
                  text.size());
    };
    if (rule.kind == NormalizerStep::Kind::Form) {
      result = unicode_form(result, rule.form);
      check_growth(result.size());
    } else if (rule.kind == NormalizerStep::Kind::Prepend) {
      if (!result.empty()) result.insert(0, rule.content);
      check_growth(result.size());
    } else {
      const auto scratch = regex->scratch();
      std::string replaced;
      std::size_t done = 0;
      while (done < result.size()) {
        const auto found = regex->find(result, done, scratch);
        if (!found) break;
        replaced.append(result, done, found->begin - done).append(rule.content);
        done = found->end;
        check_growth(replaced.size());
      }
      result = replaced.append(result, done);
    }
  }
  return result;
}

}  // namespace limbeck::data
