#include "launch/config/config_spelling.h"

#include <google/protobuf/io/zero_copy_stream_impl_lite.h>

#include <algorithm>
#include <cctype>
#include <charconv>

namespace limbeck::launch {

using google::protobuf::Descriptor;
using google::protobuf::FieldDescriptor;
using google::protobuf::io::Tokenizer;

namespace {

bool are_digits(std::string_view text) { return text.find_first_not_of("0123456789") == std::string_view::npos; }

/// The value of a field in the parser's words; nothing where it is that already, or is not understood.
std::optional<std::string> respelled_value(const FieldDescriptor& field, const Tokenizer::Token& token) {
  const bool is_whole =
      field.cpp_type() == FieldDescriptor::CPPTYPE_INT64 || field.cpp_type() == FieldDescriptor::CPPTYPE_UINT64;
  if (is_whole && token.type == Tokenizer::TYPE_FLOAT) return whole_number(token.text);
  if (field.enum_type() == nullptr || token.type != Tokenizer::TYPE_IDENTIFIER) return std::nullopt;
  std::string name = token.text;
  std::transform(name.begin(), name.end(), name.begin(), [](unsigned char c) { return std::toupper(c); });
  const bool is_known = name != token.text && field.enum_type()->FindValueByName(name) != nullptr;
  return is_known ? std::make_optional(name) : std::nullopt;
}

/// From lines and columns to bytes; protobuf's columns go on to the next multiple of 8 at a tab.
class Places {
 public:
  explicit Places(std::string_view text) : text_(text) {}
  /// Lines do not go back from call to call.
  std::size_t byte_of(int line, int column) {
    for (; line_ < line; ++line_) line_start_ = std::min(text_.find('\n', line_start_), text_.size() - 1) + 1;
    std::size_t at = line_start_;
    for (int reached = 0; reached < column && at < text_.size(); ++at)
      reached = text_[at] == '\t' ? (reached / 8 + 1) * 8 : reached + 1;
    return at;
  }

 private:
  std::string_view text_;
  int line_ = 0;
  std::size_t line_start_ = 0;
};

/// Follows the text from field to value, section by section.
class Walk {
 public:
  explicit Walk(const Descriptor& type) : open_{{&type}} {}

  /// The value's field, where the token is one; `is_lost` from the first thing that is not understood.
  const FieldDescriptor* value_of(const Tokenizer::Token& token) {
    Section& section = open_.back();
    if (token.text == "{" || token.text == "<") {
      is_lost = section.field == nullptr || section.field->message_type() == nullptr;
      if (!is_lost) open_.push_back({section.field->message_type()});
    } else if (token.text == "}" || token.text == ">") {
      open_.pop_back();
      is_lost = open_.empty();
      if (!is_lost) end_value();
    } else if (token.text == "[") {
      is_lost = section.field == nullptr;
      section.in_list = true;
    } else if (token.text == "]") {
      section.in_list = false;
      end_value();
    } else if (section.field == nullptr && token.type == Tokenizer::TYPE_IDENTIFIER) {
      section.field = section.type->FindFieldByName(token.text);
      is_lost = section.field == nullptr;
    } else if (token.type != Tokenizer::TYPE_SYMBOL) {
      const FieldDescriptor* field = section.field;
      end_value();
      return field;
    }
    return nullptr;
  }

  bool is_lost = false;

 private:
  struct Section {
    const Descriptor* type;
    const FieldDescriptor* field = nullptr;  // whose value, or next one in a list, comes
    bool in_list = false;
  };
  void end_value() {
    if (!open_.back().in_list) open_.back().field = nullptr;
  }
  std::vector<Section> open_;
};

}  // namespace

std::optional<std::string> whole_number(std::string_view text) {
  constexpr int most_zeros = 30;  // far beyond 64 bits
  const std::size_t e = text.find_first_of("eE");
  int power = 0;
  if (e != std::string_view::npos) {
    std::string_view digits = text.substr(e + 1);
    if (digits.starts_with('+')) digits.remove_prefix(1);
    const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), power);
    if (error != std::errc{} || end != digits.data() + digits.size() || std::abs(power) > most_zeros)
      return std::nullopt;
  }
  const std::string_view mantissa = text.substr(0, e);
  const std::size_t point = std::min(mantissa.find('.'), mantissa.size());
  const std::string_view fraction = mantissa.substr(std::min(point + 1, mantissa.size()));
  std::string digits = std::string(mantissa.substr(0, point)) + std::string(fraction);
  if (digits.empty() || !are_digits(digits)) return std::nullopt;
  const auto places =
      static_cast<std::ptrdiff_t>(fraction.size()) - power;  // behind the point, once `power` is applied
  if (places > 0) {
    const std::size_t whole = digits.size() - std::min(digits.size(), static_cast<std::size_t>(places));
    if (digits.find_first_not_of('0', whole) != std::string::npos) return std::nullopt;
    digits.erase(whole);
  } else {
    digits.append(static_cast<std::size_t>(-places), '0');
  }
  digits.erase(0, std::min(digits.find_first_not_of('0'), digits.size()));
  return digits.empty() ? "0" : digits;
}

int Respelled::column_before(int line, int column) const {
  for (const Longer& l : longer)
    if (l.line == line && column > l.column) column = std::max(l.column, column - l.by);
  return column;
}

Respelled respelled(const std::string& text, const Descriptor& type) {
  google::protobuf::io::ArrayInputStream stream(text.data(), static_cast<int>(text.size()));
  NoErrors errors;
  Tokenizer tokenizer(&stream, &errors);  // as protobuf's parser of text format has it
  tokenizer.set_allow_f_after_float(true);
  tokenizer.set_comment_style(Tokenizer::SH_COMMENT_STYLE);
  tokenizer.set_require_space_after_number(false);
  tokenizer.set_allow_multiline_strings(true);
  Respelled result;
  Places places(text);
  Walk walk(type);
  std::size_t copied = 0;
  while (!walk.is_lost && tokenizer.Next()) {
    const Tokenizer::Token& token = tokenizer.current();
    const FieldDescriptor* field = walk.value_of(token);
    const auto value = field == nullptr ? std::nullopt : respelled_value(*field, token);
    if (!value) continue;
    const std::size_t at = places.byte_of(token.line, token.column);
    result.text += text.substr(copied, at - copied) + *value;
    copied = at + token.text.size();
    result.longer.push_back(
        {token.line, token.column, static_cast<int>(value->size()) - static_cast<int>(token.text.size())});
  }
  result.text += text.substr(copied);
  return result;
}

}  // namespace limbeck::launch
