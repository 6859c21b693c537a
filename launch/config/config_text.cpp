#include "launch/config/config_text.h"

#include <google/protobuf/io/tokenizer.h>
#include <google/protobuf/text_format.h>

#include <algorithm>
#include <numeric>
#include <set>
#include <string_view>
#include <utility>

#include "core/error.h"

namespace limbeck::launch {

using core::fail_usage;
using google::protobuf::Descriptor;
using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::TextFormat;

namespace {

class FirstError : public google::protobuf::io::ErrorCollector {
 public:
  void AddError(int line, google::protobuf::io::ColumnNumber column, const std::string& message) override {
    if (!message_.empty()) return;
    line_ = line;
    column_ = column;
    message_ = message;
  }
  int line_ = 0;
  int column_ = 0;
  std::string message_;
};

std::size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<std::size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), std::size_t{0});
  for (std::size_t i = 1; i <= a.size(); ++i) {
    std::size_t diagonal = std::exchange(row[0], i);
    for (std::size_t j = 1; j <= b.size(); ++j) {
      const std::size_t substituted = diagonal + (a[i - 1] == b[j - 1] ? 0 : 1);
      diagonal = std::exchange(row[j], std::min({row[j] + 1, row[j - 1] + 1, substituted}));
    }
  }
  return row.back();
}

/// "did you mean a or b?" from the nearest of `names`, or all of them when there are few.
std::string suggestion(const std::string& given, std::vector<std::string> names) {
  const auto last_part = [](const std::string& path) { return path.substr(path.rfind('.') + 1); };
  const auto distance = [&](const std::string& name) {
    return std::min(edit_distance(given, name), edit_distance(last_part(given), last_part(name)));
  };
  std::stable_sort(names.begin(), names.end(), [&](const auto& a, const auto& b) {
    return std::pair(distance(a), edit_distance(given, a)) < std::pair(distance(b), edit_distance(given, b));
  });
  std::size_t num_near = 1;
  while (num_near < std::min<std::size_t>(names.size(), 3) && distance(names[num_near]) == distance(names[0]))
    ++num_near;
  names.resize(std::min(names.size(), num_near));
  return fmt::format("did you mean {}?", fmt::join(names, " or "));
}

void collect_paths(const Descriptor& type, const std::string& prefix, std::vector<std::string>& paths) {
  for (int i = 0; i < type.field_count(); ++i) {
    const FieldDescriptor& field = *type.field(i);
    if (field.message_type() != nullptr && !field.is_repeated())
      collect_paths(*field.message_type(), prefix + field.name() + ".", paths);
    else
      paths.push_back(prefix + field.name());
  }
}

std::string enum_names(const google::protobuf::EnumDescriptor& type) {
  std::vector<std::string> names;
  for (int i = 0; i < type.value_count(); ++i) names.push_back(type.value(i)->name());
  return fmt::format("{}", fmt::join(names, ", "));
}

std::string expected_of(const FieldDescriptor& field) {
  switch (field.cpp_type()) {
    case FieldDescriptor::CPPTYPE_INT64:
      return "a whole number";
    case FieldDescriptor::CPPTYPE_UINT64:
      return "a whole number of 0 or more";
    case FieldDescriptor::CPPTYPE_DOUBLE:
      return "a number";
    case FieldDescriptor::CPPTYPE_BOOL:
      return "true or false";
    case FieldDescriptor::CPPTYPE_ENUM:
      return "one of " + enum_names(*field.enum_type());
    case FieldDescriptor::CPPTYPE_MESSAGE:
      return "{ field: value ... }";
    default:
      return "a string";
  }
}

std::vector<std::string> split_at_quotes(const std::string& text) {
  std::vector<std::string> parts;
  std::size_t start = 0;
  for (std::size_t at = 0; (at = text.find('"', start)) != std::string::npos; start = at + 1)
    parts.push_back(text.substr(start, at - start));
  parts.push_back(text.substr(start));
  return parts;
}

/// A name as a message shows it.
std::string shortened(const std::string& name) { return name.size() <= 80 ? name : name.substr(0, 80) + "..."; }

/// The mistake at `error` of `text` in our words. Protobuf stands behind the name of an unknown field: we point at it.
std::string explain(const std::string& text, const std::string& name, const FirstError& error) {
  std::size_t line_start = 0;
  for (int line = 0; line < error.line_ && line_start < text.size(); ++line)
    line_start = text.find('\n', line_start) + 1;
  std::string what = error.message_;
  int line = error.line_;
  int column = error.column_;
  // Protobuf's words: Message type "limbeck.config.Data" has no field named "txt".
  const std::vector<std::string> parts = split_at_quotes(error.message_);
  if (parts.size() == 5 && parts[0] == "Message type " && parts[2] == " has no field named ") {
    const std::string& field = parts[3];
    const std::size_t at = text.rfind(field, line_start + static_cast<std::size_t>(std::max(column, 0)));
    if (at != std::string::npos) {
      line = static_cast<int>(std::count(text.begin(), text.begin() + static_cast<std::ptrdiff_t>(at), '\n'));
      const std::size_t before = at == 0 ? std::string::npos : text.rfind('\n', at - 1);
      column = static_cast<int>(before == std::string::npos ? at : at - before - 1);
    }
    std::vector<std::string> names;
    if (const Descriptor* type = google::protobuf::DescriptorPool::generated_pool()->FindMessageTypeByName(parts[1]))
      for (int i = 0; i < type->field_count(); ++i) names.push_back(type->field(i)->name());
    what = fmt::format("there is no field {}, {}", shortened(field), suggestion(shortened(field), names));
  }
  while (!what.empty() && what.back() == '.') what.pop_back();
  return fmt::format("{}:{}:{}: {}", name, line + 1, column + 1, what);
}

/// Remembers where each field of the message stands in the text.
void collect_places(const Message& message, const TextFormat::ParseInfoTree& tree, const std::string& prefix,
                    ParsedConfig& parsed) {
  std::vector<const FieldDescriptor*> given;
  message.GetReflection()->ListFields(message, &given);
  for (const FieldDescriptor* field : given) {
    const TextFormat::ParseLocation at = tree.GetLocation(field, field->is_repeated() ? 0 : -1);
    if (at.line >= 0)
      parsed.places[prefix + field->name()] = fmt::format("{}:{}:{}", parsed.name, at.line + 1, at.column + 1);
    if (field->message_type() == nullptr) continue;
    if (!field->is_repeated()) {
      if (const auto* nested = tree.GetTreeForNested(field, -1))
        collect_places(message.GetReflection()->GetMessage(message, field), *nested, prefix + field->name() + ".",
                       parsed);
      continue;
    }
    for (int i = 0; i < message.GetReflection()->FieldSize(message, field); ++i) {
      const std::string element = fmt::format("{}{}[{}]", prefix, field->name(), i);
      const TextFormat::ParseLocation start = tree.GetLocation(field, i);
      if (start.line >= 0)
        parsed.places[element] = fmt::format("{}:{}:{}", parsed.name, start.line + 1, start.column + 1);
      if (const auto* nested = tree.GetTreeForNested(field, i))
        collect_places(message.GetReflection()->GetRepeatedMessage(message, field, i), *nested, element + ".", parsed);
    }
  }
}

/// One value of a --set into the message. A string needs no quotes.
void set_value(Message& message, const FieldDescriptor& field, const std::string& set, std::string value) {
  const bool is_quoted = value.size() > 1 && (value[0] == '"' || value[0] == '\'') && value.back() == value[0];
  if (field.cpp_type() == FieldDescriptor::CPPTYPE_STRING && !is_quoted) {
    const auto* reflection = message.GetReflection();
    if (field.is_repeated())
      reflection->AddString(&message, &field, value);
    else
      reflection->SetString(&message, &field, value);
    return;
  }
  std::string digits = value;
  std::erase_if(digits, [](char c) { return c == ' ' || c == '-'; });
  if (digits.size() > 1 && digits[0] == '0' && digits.find_first_not_of("0123456789") == std::string::npos)
    fail_usage("--set {}: the value is '{}', expected {}, without zeros in front", set, value, expected_of(field));
  FirstError error;
  TextFormat::Parser parser;
  parser.RecordErrorsTo(&error);
  if (!parser.ParseFieldValueFromString(value, &field, &message))
    fail_usage("--set {}: the value is '{}', expected {}", set, value, expected_of(field));
}

/// "[a, b]"; nothing at all is the empty list too.
std::vector<std::string> list_items(const std::string& list) {
  std::vector<std::string> items;
  const std::string inner = list.empty() ? "" : list.substr(1, list.size() - 2);
  for (std::size_t start = 0; start < inner.size();) {
    std::size_t end = std::min(inner.find_first_not_of(' ', start), inner.size());
    if (end < inner.size() && (inner[end] == '"' || inner[end] == '\''))  // a quoted item may have commas
      for (const char quote = inner[end++]; end < inner.size() && inner[end] != quote; ++end)
        if (inner[end] == '\\') ++end;
    end = inner.find(',', std::min(end, inner.size()));
    end = std::min(end, inner.size());
    const std::size_t first = std::min(inner.find_first_not_of(' ', start), end);
    const std::size_t last = inner.find_last_not_of(' ', end == 0 ? 0 : end - 1);
    items.push_back(last == std::string::npos || last < first ? "" : inner.substr(first, last + 1 - first));
    start = end + 1;
  }
  return items;
}

}  // namespace

std::string ParsedConfig::place_of(const std::string& path) const {
  for (std::string at = path;;) {
    if (const auto found = places.find(at); found != places.end()) return found->second;
    const std::size_t dot = at.rfind('.');
    if (dot == std::string::npos) return name;
    at.resize(dot);
  }
}

ParsedConfig parse_text(const std::string& text, const std::string& name) {
  ParsedConfig parsed;
  parsed.name = name;
  FirstError error;
  TextFormat::ParseInfoTree tree;
  TextFormat::Parser parser;
  parser.RecordErrorsTo(&error);
  parser.WriteLocationsTo(&tree);
  if (!parser.ParseFromString(text, &parsed.message)) fail_usage("{}", explain(text, name, error));
  collect_places(parsed.message, tree, "", parsed);
  return parsed;
}

void apply_sets(ParsedConfig& parsed, const std::vector<std::string>& sets) {
  std::set<std::string> replaced;
  for (const std::string& set : sets) {
    const std::size_t equals = set.find('=');
    if (equals == std::string::npos || equals == 0) fail_usage("--set {}: expected section.field=value", set);
    const std::string path = set.substr(0, equals);
    const std::string value = set.substr(equals + 1);

    Message* message = &parsed.message;
    const FieldDescriptor* field = nullptr;
    for (std::size_t start = 0; start <= path.size();) {
      const std::size_t end = std::min(path.find('.', start), path.size());
      if (field != nullptr && field->message_type() != nullptr && field->is_repeated()) {
        const std::string list = path.substr(0, start - 1);
        fail_usage("--set {}: {} is a list of sections, expected --set '{}={{ field: value ... }}'", set, list, list);
      }
      if (field != nullptr)
        message = field->message_type() != nullptr ? message->GetReflection()->MutableMessage(message, field) : nullptr;
      field = message != nullptr ? message->GetDescriptor()->FindFieldByName(path.substr(start, end - start)) : nullptr;
      if (field == nullptr) {
        std::vector<std::string> paths;
        collect_paths(*parsed.message.GetDescriptor(), "", paths);
        fail_usage("--set {}: there is no field {}, {}", set, path, suggestion(path, paths));
      }
      start = end + 1;
    }
    if (field->message_type() != nullptr && !field->is_repeated()) {
      std::vector<std::string> inner;
      collect_paths(*field->message_type(), path + ".", inner);
      fail_usage("--set {}: {} is a section, expected one of its fields: {}", set, path, fmt::join(inner, ", "));
    }
    parsed.places[path] = "--set " + set;
    if (!field->is_repeated()) {
      set_value(*message, *field, set, value);
      continue;
    }
    if (replaced.insert(path).second) {
      message->GetReflection()->ClearField(message, field);
      std::erase_if(parsed.places, [&](const auto& place) { return place.first.starts_with(path + "["); });
    }
    const bool is_list = value.empty() || (value.size() > 1 && value.front() == '[' && value.back() == ']');
    for (const std::string& item : is_list ? list_items(value) : std::vector{value}) {
      set_value(*message, *field, set, item);
      parsed.places[fmt::format("{}[{}]", path, message->GetReflection()->FieldSize(*message, field) - 1)] =
          parsed.places[path];
    }
  }
}

}  // namespace limbeck::launch
