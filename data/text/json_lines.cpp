#include "data/text/json_lines.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>

#include "core/error.h"
#include "data/files/file_kind.h"
#include "data/files/json_text.h"

namespace limbeck::data {

using core::check;
using core::fail;
using nlohmann::json;

namespace {

constexpr std::size_t block_bytes = 1U << 20U;
constexpr std::size_t shown_names = 8;  // in a message
constexpr std::size_t shown_bytes = 40;

/// Finds one string while the parser goes over a line, and keeps nothing else of it: a hostile line costs no more
/// memory than its own length.
class Finder : public json::json_sax_t {
 public:
  explicit Finder(const std::vector<std::string>& names) : names_(names) {}

  bool null() override { return value("null"); }
  bool boolean(bool) override { return value("a boolean"); }
  bool number_integer(number_integer_t) override { return value("a number"); }
  bool number_unsigned(number_unsigned_t) override { return value("a number"); }
  bool number_float(number_float_t, const string_t&) override { return value("a number"); }
  bool binary(binary_t&) override { return value("binary data"); }
  bool string(string_t& text) override {
    if (is_text()) {
      text_ = std::move(text);
      is_hit_ = false;
      return true;
    }
    return value("a string");
  }
  bool start_object(std::size_t) override {
    if (depth_ > 0 && is_hit_ && matched_ + 1 < names_.size()) {
      ++matched_;
      is_hit_ = false;
    } else {
      value("an object");
    }
    ++depth_;
    return true;
  }
  bool end_object() override {
    --depth_;
    if (matched_ > 0 && depth_ == matched_) --matched_;
    return true;
  }
  bool start_array(std::size_t) override {
    value("a list");
    ++depth_;
    return true;
  }
  bool end_array() override {
    --depth_;
    return true;
  }
  bool key(string_t& name) override {
    if (depth_ == 1 && keys_.size() < shown_names) keys_.push_back(name.substr(0, shown_bytes));
    is_hit_ = depth_ == matched_ + 1 && name == names_[matched_];
    if (is_hit_) {
      text_.reset();
      found_.clear();
    }
    return true;
  }
  bool parse_error(std::size_t position, const std::string&, const json::exception&) override {
    error_at_ = position;
    return false;
  }

  std::optional<std::string> text_;
  std::string found_;              // what the field is, where it is no string
  std::string top_;                // what the line is, where it is no object
  std::vector<std::string> keys_;  // some of the line's names
  std::size_t error_at_ = 0;       // byte, from 1

 private:
  /// The next value is the field itself.
  bool is_text() const { return is_hit_ && matched_ + 1 == names_.size(); }
  bool value(const char* kind) {
    if (depth_ == 0) top_ = kind;
    if (is_hit_) found_ = kind;
    is_hit_ = false;
    return true;
  }

  const std::vector<std::string>& names_;
  std::size_t depth_ = 0;    // of objects and lists around
  std::size_t matched_ = 0;  // names whose objects are around; the next is looked for at depth matched_ + 1
  bool is_hit_ = false;      // the name before was the one looked for
};

/// Names from a file, fit for a line of a message.
std::string shown(const std::vector<std::string>& names) {
  std::string text = fmt::format("{}", fmt::join(names, ", "));
  for (char& c : text)
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) c = ' ';
  return text;
}

}  // namespace

LineReader::LineReader(const std::string& path, const LinePlace& begin, std::int64_t max_line_bytes)
    : path_(path), file_(path), place_(begin), max_line_bytes_(max_line_bytes) {
  file_.skip(begin.offset);
}

LineBlock LineReader::next() {
  LineBlock block{.text = std::move(rest_), .begin = place_};
  rest_.clear();
  std::size_t end = std::string::npos;  // of the last whole line
  while (end == std::string::npos && !block.is_last) {
    const std::size_t before = block.text.size();
    block.text.resize(before + block_bytes);
    const std::size_t got = file_.read({block.text.data() + before, block_bytes});
    block.text.resize(before + got);
    block.is_last = got < block_bytes;
    const std::size_t line_end = std::string_view(block.text).substr(before).rfind('\n');
    if (line_end != std::string::npos) end = before + line_end + 1;
    check(block.is_last || end != std::string::npos || static_cast<std::int64_t>(block.text.size()) <= max_line_bytes_,
          "{}:{}: the line has more than {} bytes, the limit for one document", path_, place_.line + 1,
          max_line_bytes_);
  }
  if (!block.is_last) {
    rest_ = block.text.substr(end);
    block.text.resize(end);
  }
  place_.offset += static_cast<std::int64_t>(block.text.size());
  place_.line += std::count(block.text.begin(), block.text.end(), '\n');
  block.end = place_;
  block.packed_end = file_.packed_position();
  return block;
}

JsonField::JsonField(std::string_view names) {
  for (std::size_t start = 0; start <= names.size();) {
    const std::size_t end = std::min(names.find('.', start), names.size());
    names_.emplace_back(names.substr(start, end - start));
    if (names_.back().empty())
      core::fail_usage("the field is '{}', expected a name, or names joined by single dots", names);
    start = end + 1;
  }
}

std::string JsonField::text_of(std::string_view line, const std::string& file, std::int64_t line_number) const {
  Finder finder(names_);
  bool is_json = json::sax_parse(line.begin(), line.end(), &finder);
  if (is_json && has_zero_byte(line)) {
    is_json = false;
    finder.error_at_ = line.find('\0') + 1;
  }
  if (!is_json) refuse_other_kind(fmt::format("{}:{}", file, line_number), line, "JSON");
  check(is_json, "{}:{}: is not JSON at byte {}, expected one object a line", file, line_number, finder.error_at_);
  check(finder.top_ == "an object", "{}:{}: is {}, expected one object a line", file, line_number, finder.top_);
  const std::string name = fmt::format("{}", fmt::join(names_, "."));
  check(finder.found_.empty(), "{}:{}: the field \"{}\" is {}, expected a string", file, line_number, name,
        finder.found_);
  check(finder.text_.has_value(), "{}:{}: has no field \"{}\", expected a string there (the line has: {})", file,
        line_number, name, shown(finder.keys_));
  return std::move(*finder.text_);
}

void for_each_line(const LineBlock& block, const std::function<void(std::string_view, std::int64_t)>& use) {
  const std::string_view text = block.text;
  std::int64_t number = block.begin.line;
  for (std::size_t start = 0; start < text.size();) {
    const std::size_t end = std::min(text.find('\n', start), text.size());
    const std::string_view line = text.substr(start, end - start);
    ++number;
    if (line.find_first_not_of(" \t\r") != std::string_view::npos) use(line, number);
    start = end + 1;
  }
}

void for_each_text(const LineBlock& block, const JsonField& field, const std::string& file,
                   const std::function<void(std::string&&, std::int64_t)>& use) {
  for_each_line(block,
                [&](std::string_view line, std::int64_t number) { use(field.text_of(line, file, number), number); });
}

}  // namespace limbeck::data
