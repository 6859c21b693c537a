#include "data/tokenizers/regex.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <algorithm>
#include <array>
#include <memory>
#include <new>

#include "core/error.h"

namespace limbeck::data {

using core::check;
using core::fail;

namespace {

// What the oracle knows and PCRE2 10.42 (Unicode 14) does not, by general category: characters of Unicode 15 and 16.
// (U+1171E went from Mn to Mc, which no tokenizer tells apart.)
struct Additions {
  std::string_view category;
  std::string_view characters;
};
constexpr std::array additions = {
    Additions{"Lu", R"(\x{1c89}\x{a7cb}-\x{a7cc}\x{a7da}\x{a7dc}\x{10d50}-\x{10d65})"},
    Additions{"Ll", R"(\x{1c8a}\x{a7cd}\x{a7db}\x{10d70}-\x{10d85}\x{1df25}-\x{1df2a})"},
    Additions{"Lm", R"(\x{10d4e}\x{10d6f}\x{16d40}-\x{16d42}\x{16d6b}-\x{16d6c}\x{1e030}-\x{1e06d}\x{1e4eb})"},
    Additions{
        "Lo",
        R"(\x{105c0}-\x{105f3}\x{10d4a}-\x{10d4d}\x{10d4f}\x{10ec2}-\x{10ec4}\x{1123f}-\x{11240}\x{11380}-\x{11389}\x{1138b})"
        R"(\x{1138e}\x{11390}-\x{113b5}\x{113b7}\x{113d1}\x{113d3}\x{11bc0}-\x{11be0}\x{11f02}\x{11f04}-\x{11f10})"
        R"(\x{11f12}-\x{11f33}\x{1342f}\x{13441}-\x{13446}\x{13460}-\x{143fa}\x{16100}-\x{1611d}\x{16d43}-\x{16d6a}\x{18cff})"
        R"(\x{1b132}\x{1b155}\x{1e4d0}-\x{1e4ea}\x{1e5d0}-\x{1e5ed}\x{1e5f0}\x{2b739}\x{2ebf0}-\x{2ee5d}\x{31350}-\x{323af})"},
    Additions{
        "Mn",
        R"(\x{897}\x{ece}\x{10d69}-\x{10d6d}\x{10efc}-\x{10eff}\x{11241}\x{113bb}-\x{113c0}\x{113ce}\x{113d0}\x{113d2})"
        R"(\x{113e1}-\x{113e2}\x{11f00}-\x{11f01}\x{11f36}-\x{11f3a}\x{11f40}\x{11f42}\x{11f5a}\x{13440}\x{13447}-\x{13455})"
        R"(\x{1611e}-\x{16129}\x{1612d}-\x{1612f}\x{1e08f}\x{1e4ec}-\x{1e4ef}\x{1e5ee}-\x{1e5ef})"},
    Additions{"Mc",
              R"(\x{cf3}\x{113b8}-\x{113ba}\x{113c2}\x{113c5}\x{113c7}-\x{113ca}\x{113cc}-\x{113cd}\x{113cf}\x{1171e})"
              R"(\x{11f03}\x{11f34}-\x{11f35}\x{11f3e}-\x{11f3f}\x{11f41}\x{1612a}-\x{1612c})"},
    Additions{
        "Nd",
        R"(\x{10d40}-\x{10d49}\x{116d0}-\x{116e3}\x{11bf0}-\x{11bf9}\x{11f50}-\x{11f59}\x{16130}-\x{16139}\x{16d70}-\x{16d79})"
        R"(\x{1ccf0}-\x{1ccf9}\x{1e4f0}-\x{1e4f9}\x{1e5f1}-\x{1e5fa})"},
    Additions{"No", R"(\x{1d2c0}-\x{1d2d3})"},
    Additions{"Pd", R"(\x{10d6e})"},
    Additions{
        "Po",
        R"(\x{1b4e}-\x{1b4f}\x{1b7f}\x{113d4}-\x{113d5}\x{113d7}-\x{113d8}\x{11b00}-\x{11b09}\x{11be1}\x{11f43}-\x{11f4f})"
        R"(\x{16d6d}-\x{16d6f}\x{1e5ff})"},
    Additions{"Sm", R"(\x{10d8e}-\x{10d8f})"},
    Additions{
        "So",
        R"(\x{2427}-\x{2429}\x{2ffc}-\x{2fff}\x{31e4}-\x{31e5}\x{31ef}\x{1cc00}-\x{1ccef}\x{1cd00}-\x{1ceb3}\x{1f6dc})"
        R"(\x{1f774}-\x{1f776}\x{1f77b}-\x{1f77f}\x{1f7d9}\x{1f8b2}-\x{1f8bb}\x{1f8c0}-\x{1f8c1}\x{1fa75}-\x{1fa77})"
        R"(\x{1fa87}-\x{1fa89}\x{1fa8f}\x{1faad}-\x{1faaf}\x{1fabb}-\x{1fabf}\x{1fac6}\x{1face}-\x{1facf}\x{1fada}-\x{1fadc})"
        R"(\x{1fadf}\x{1fae8}-\x{1fae9}\x{1faf7}-\x{1faf8}\x{1fbcb}-\x{1fbef})"},
    Additions{"Cf", R"(\x{13439}-\x{1343f})"},
};
constexpr std::string_view categories =
    " L Lu Ll Lt Lm Lo M Mn Mc Me N Nd Nl No P Pc Pd Ps Pe Pi Pf Po S Sm Sc Sk So Z Zs Zl Zp Cc Cf Co ";
// PCRE2's \s also matches U+180E.
constexpr std::string_view space =
    R"(\t-\r\x20\x{85}\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000})";

/// The inside of a class of all characters of a category; `name` is known.
std::string members(std::string_view name) {
  std::string result;
  for (const auto& addition : additions)
    if (addition.category.starts_with(name)) result += addition.characters;
  return result + fmt::format("\\p{{{}}}", name);
}

// Of the interpreter that a pattern with many ways to match needs; PCRE2's own is 20 GB.
constexpr std::uint32_t max_heap_kib = 256 << 10U;
constexpr std::size_t max_pattern = 1 << 16U;
// PCRE2's own limit is 10 million steps a match. Passing over a run of spaces takes a few a byte.
constexpr std::size_t min_long_text = 1 << 20U;
constexpr std::size_t steps_a_byte = 16;

bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool is_hex(char c) { return is_digit(c) || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F'); }
bool is_letter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }

class Translator {
 public:
  Translator(std::string_view pattern, std::string_view where) : whole_(pattern), rest_(pattern), where_(where) {}

  std::string run() {
    while (!rest_.empty()) {
      if (rest_[0] == '\\')
        outside(escape());
      else if (rest_[0] == '[')
        character_class();
      else if (rest_[0] == '(')
        group();
      else if (rest_[0] == '{')
        interval();
      else if (rest_[0] == '^')
        refuse(rest_.substr(0, 1));
      else if (take("$"))  // the end of any line
        out_ += "(?=\\n|\\z)";
      else if (take("."))
        out_ += "[^\\n]";
      else if (rest_[0] == ']' || rest_[0] == '}')
        out_ += fmt::format("\\{}", next());
      else
        out_ += next();
    }
    return std::move(out_);
  }

 private:
  struct Escape {
    std::string members;  // as they stand within a class
    bool is_class = false;
    bool is_negated = false;
  };

  [[noreturn]] void refuse(std::string_view construct) const {
    fail("{}: the regular expression {} has '{}' at byte {}, which is not supported", where_, whole_, construct,
         whole_.size() - rest_.size());
  }
  char next() {
    const char c = rest_[0];
    rest_.remove_prefix(1);
    return c;
  }
  bool take(std::string_view text) {
    if (!rest_.starts_with(text)) return false;
    rest_.remove_prefix(text.size());
    return true;
  }
  std::string_view take_hex(std::size_t most) {
    const auto end = std::find_if_not(rest_.begin(), rest_.end(), is_hex);
    const auto digits = rest_.substr(0, std::min<std::size_t>(static_cast<std::size_t>(end - rest_.begin()), most));
    rest_.remove_prefix(digits.size());
    return digits;
  }

  Escape escape() {
    if (rest_.size() < 2) refuse(rest_);
    const std::string_view start = rest_;
    rest_.remove_prefix(1);
    const char c = next();
    const auto bad = [&](std::size_t length) {
      rest_ = start;
      refuse(start.substr(0, length));
    };
    std::string_view hex;
    switch (c) {
      case 's':
      case 'S':
        return {std::string(space), true, c == 'S'};
      case 'd':
      case 'D':
        return {members("Nd"), true, c == 'D'};
      case 'p':
      case 'P': {
        const std::size_t close = rest_.find('}');
        if (!rest_.starts_with('{') || close == std::string_view::npos) bad(2);
        std::string_view name = rest_.substr(1, close - 1);
        const bool inverted = name.starts_with('^');
        if (inverted) name.remove_prefix(1);
        const bool is_word = std::all_of(name.begin(), name.end(), is_letter);
        if (!is_word || categories.find(fmt::format(" {} ", name)) == std::string_view::npos) bad(close + 3);
        rest_.remove_prefix(close + 1);
        return {members(name), true, (c == 'P') != inverted};
      }
      case 't':
        return {"\\x{9}"};
      case 'n':
        return {"\\x{a}"};
      case 'v':
        return {"\\x{b}"};
      case 'f':
        return {"\\x{c}"};
      case 'r':
        return {"\\x{d}"};
      case 'u':
        hex = take_hex(4);
        if (hex.size() != 4) bad(2);
        return {fmt::format("\\x{{{}}}", hex)};
      case 'x':
        if (take("{")) {
          hex = take_hex(8);
          if (hex.empty() || !take("}")) bad(3);
        } else {
          hex = take_hex(2);
          if (hex.empty()) bad(2);
          if (std::stoul(std::string(hex), nullptr, 16) >= 0x80) bad(2 + hex.size());  // a byte there, no character
        }
        return {fmt::format("\\x{{{}}}", hex)};
      default:
        if (is_letter(c) || is_digit(c) || static_cast<unsigned char>(c) >= 0x80) bad(2);
        return {fmt::format("\\{}", c)};
    }
  }

  void outside(const Escape& e) {
    if (e.is_class)
      out_ += fmt::format("[{}{}]", e.is_negated ? "^" : "", e.members);
    else
      out_ += e.members;
  }

  void character_class() {
    out_ += next();
    if (take("^")) out_ += '^';
    if (rest_.starts_with(']')) refuse("[]");
    bool after_class = false;  // a '-' there is no range
    bool after_dash = false;   // one that is not the first
    bool is_first = true;
    while (!rest_.starts_with(']')) {
      if (rest_.empty()) refuse("[ without ]");
      if (rest_[0] == '[') refuse("[ in [ ]");
      if (rest_.starts_with("&&")) refuse("&&");
      if (rest_[0] == '-' && after_class && !rest_.starts_with("-]")) refuse("- after a class");
      if (rest_[0] != '\\') {
        after_class = false;
        after_dash = rest_[0] == '-' && !is_first;
        is_first = false;
        out_ += next();
        continue;
      }
      const std::string_view start = rest_;
      const Escape e = escape();
      if (e.is_negated || (e.is_class && after_dash)) {
        rest_ = start;
        refuse(start.substr(0, 2));
      }
      out_ += e.members;
      after_class = e.is_class;
      after_dash = is_first = false;
    }
    out_ += next();
  }

  void group() {
    for (const std::string_view open : {"(?:", "(?=", "(?!", "(?<=", "(?<!", "(?>", "(?i:"})
      if (take(open)) {
        out_ += open;
        return;
      }
    if (rest_.starts_with("(?") || rest_.starts_with("(*"))
      refuse(rest_.substr(0, std::min<std::size_t>(rest_.size(), 4)));
    out_ += next();
  }

  /// {n}, {n,}, {n,m} or {,m}; else a brace. What follows one is greed in PCRE2 and another repetition in Ruby.
  void interval() {
    std::size_t i = 1;
    const std::size_t lower = i;
    while (i < rest_.size() && is_digit(rest_[i])) ++i;
    const std::string_view least = rest_.substr(lower, i - lower);
    const bool has_comma = i < rest_.size() && rest_[i] == ',';
    if (has_comma) ++i;
    const std::size_t upper = i;
    while (i < rest_.size() && is_digit(rest_[i])) ++i;
    const std::string_view most = rest_.substr(std::min(upper, rest_.size()), has_comma ? i - upper : 0);
    if (i >= rest_.size() || rest_[i] != '}' || (least.empty() && most.empty())) {
      out_ += fmt::format("\\{}", next());
      return;
    }
    const std::string_view after = rest_.substr(i + 1);
    if (after.starts_with('+') || (after.starts_with('?') && !has_comma)) refuse(rest_.substr(0, i + 2));
    out_ += fmt::format("{{{}{}{}}}", least.empty() ? "0" : least, has_comma ? "," : "", most);
    rest_ = after;
  }

  std::string_view whole_;
  std::string_view rest_;
  std::string_view where_;
  std::string out_;
};

}  // namespace

std::string pcre2_pattern(std::string_view oniguruma, std::string_view where) {
  return Translator(oniguruma, where).run();
}

std::string literal_pattern(std::string_view text) {
  std::string result;
  for (const char c : text) {
    if (static_cast<unsigned char>(c) < 0x80 && !is_letter(c) && !is_digit(c))
      result += fmt::format("\\x{{{:x}}}", static_cast<unsigned>(c));
    else
      result += c;
  }
  return result;
}

Regex::Regex(std::string_view oniguruma, std::string_view where) {
  check(oniguruma.size() <= max_pattern, "{}: the regular expression has {} bytes, expected at most {}", where,
        oniguruma.size(), max_pattern);
  const std::string pattern = pcre2_pattern(oniguruma, where);
  int error = 0;
  PCRE2_SIZE offset = 0;
  pcre2_code* code = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(), PCRE2_UTF | PCRE2_UCP,
                                   &error, &offset, nullptr);
  if (code == nullptr) {
    std::array<PCRE2_UCHAR, 256> text{};
    pcre2_get_error_message(error, text.data(), text.size());
    fail("{}: the regular expression {} cannot be compiled: {}", where, oniguruma,
         reinterpret_cast<const char*>(text.data()));
  }
  code_.reset(code, pcre2_code_free);
  std::uint32_t may_be_empty = 0;
  pcre2_pattern_info(code, PCRE2_INFO_MATCHEMPTY, &may_be_empty);
  check(may_be_empty == 0, "{}: the regular expression {} could match nothing, expected one that takes a character",
        where, oniguruma);
  pcre2_jit_compile(code, PCRE2_JIT_COMPLETE);  // where it cannot, pcre2_match interprets
  limits_.reset(pcre2_match_context_create(nullptr), pcre2_match_context_free);
  check(limits_ != nullptr, "{}: no memory for a regular expression", where);
  pcre2_set_heap_limit(limits_.get(), max_heap_kib);
}

Regex::Scratch Regex::scratch() const {
  return {pcre2_match_data_create_from_pattern(code_.get(), nullptr), pcre2_match_data_free};
}

std::optional<Regex::Match> Regex::find(std::string_view text, std::size_t from, const Scratch& scratch) const {
  const auto match = [&](pcre2_match_context* limits) {
    const auto run = [&](std::uint32_t options) {
      return pcre2_match(code_.get(), reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), from,
                         PCRE2_NO_UTF_CHECK | options, scratch.get(), limits);
    };
    const int found = run(0);
    return found == PCRE2_ERROR_JIT_STACKLIMIT ? run(PCRE2_NO_JIT) : found;  // which keeps its stack on the heap
  };
  int found = match(limits_.get());
  if (found == PCRE2_ERROR_MATCHLIMIT && text.size() - from > min_long_text) {  // some steps a byte are in order
    const std::unique_ptr<pcre2_match_context, decltype(&pcre2_match_context_free)> more(
        pcre2_match_context_copy(limits_.get()), pcre2_match_context_free);
    if (more == nullptr) throw std::bad_alloc();
    const std::size_t steps = steps_a_byte * (text.size() - from);
    pcre2_set_match_limit(more.get(), static_cast<std::uint32_t>(std::min<std::size_t>(steps, UINT32_MAX)));
    found = match(more.get());
  }
  if (found == PCRE2_ERROR_NOMATCH) return std::nullopt;
  check(found != PCRE2_ERROR_MATCHLIMIT && found != PCRE2_ERROR_HEAPLIMIT,
        "tokenizer: a regular expression takes too many steps at byte {} of {}", from, text.size());
  check(found > 0, "tokenizer: a regular expression fails at byte {} of {} (PCRE2 error {})", from, text.size(), found);
  const PCRE2_SIZE* bounds = pcre2_get_ovector_pointer(scratch.get());
  check(bounds[1] > bounds[0], "tokenizer: a regular expression matched nothing at byte {}", bounds[0]);
  return Match{bounds[0], bounds[1]};
}

}  // namespace limbeck::data
