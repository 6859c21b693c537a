#include "launch/config/config_text.h"

#include <google/protobuf/text_format.h>

#include <algorithm>
#include <numeric>
#include <optional>
#include <string_view>
#include <utility>

#include "core/error.h"
#include "launch/config/config_spelling.h"

namespace limbeck::launch {

using core::fail_usage;
using google::protobuf::Descriptor;
using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::TextFormat;

namespace {

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

std::string enum_names(const google::protobuf::EnumDescriptor& type) {
  std::vector<std::string> names;
  for (int i = 0; i < type.value_count(); ++i) names.push_back(type.value(i)->name());
  return fmt::format("{}", fmt::join(names, ", "));
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

/// A name that protobuf found no field for, in its words: Message type "limbeck.config.Data" has no field named "txt".
struct UnknownField {
  std::string name;
  const Descriptor* type;  // that has no such field
};

std::optional<UnknownField> unknown_field(const std::string& message) {
  const std::vector<std::string> parts = split_at_quotes(message);
  if (parts.size() != 5 || parts[0] != "Message type " || parts[2] != " has no field named ") return std::nullopt;
  const Descriptor* type = google::protobuf::DescriptorPool::generated_pool()->FindMessageTypeByName(parts[1]);
  return type == nullptr ? std::nullopt : std::optional(UnknownField{parts[3], type});
}

/// The mistake at `error`, with its place. Protobuf stands behind the name of an unknown field: we point at it.
std::string explain(const Respelled& respelled, const std::string& name, const FirstError& error) {
  const std::string& text = respelled.text;
  std::size_t line_start = 0;
  for (int line = 0; line < error.line && line_start < text.size(); ++line)
    line_start = text.find('\n', line_start) + 1;
  int line = error.line;
  int column = error.column;
  if (const auto unknown = unknown_field(error.message)) {
    const std::size_t at = text.rfind(unknown->name, line_start + static_cast<std::size_t>(std::max(column, 0)));
    if (at != std::string::npos) {
      line = static_cast<int>(std::count(text.begin(), text.begin() + static_cast<std::ptrdiff_t>(at), '\n'));
      const std::size_t before = at == 0 ? std::string::npos : text.rfind('\n', at - 1);
      column = static_cast<int>(before == std::string::npos ? at : at - before - 1);
    }
  }
  return fmt::format("{}:{}:{}: {}", name, line + 1, respelled.column_before(line, column) + 1, in_our_words(error));
}

/// Remembers where each field of the message stands in the text.
void collect_places(const Message& message, const TextFormat::ParseInfoTree& tree, const Respelled& respelled,
                    const std::string& prefix, ParsedConfig& parsed) {
  const auto note = [&](const std::string& path, const TextFormat::ParseLocation& at) {
    if (at.line >= 0)
      parsed.places[path] =
          fmt::format("{}:{}:{}", parsed.name, at.line + 1, respelled.column_before(at.line, at.column) + 1);
  };
  std::vector<const FieldDescriptor*> given;
  message.GetReflection()->ListFields(message, &given);
  for (const FieldDescriptor* field : given) {
    note(prefix + field->name(), tree.GetLocation(field, field->is_repeated() ? 0 : -1));
    if (!field->is_repeated()) {
      const auto* nested = field->message_type() == nullptr ? nullptr : tree.GetTreeForNested(field, -1);
      if (nested != nullptr)
        collect_places(message.GetReflection()->GetMessage(message, field), *nested, respelled,
                       prefix + field->name() + ".", parsed);
      continue;
    }
    for (int i = 0; i < message.GetReflection()->FieldSize(message, field); ++i) {
      const std::string element = fmt::format("{}{}[{}]", prefix, field->name(), i);
      note(element, tree.GetLocation(field, 0));  // of all that [a, b] holds
      note(element, tree.GetLocation(field, i));
      const auto* nested = field->message_type() == nullptr ? nullptr : tree.GetTreeForNested(field, i);
      if (nested != nullptr)
        collect_places(message.GetReflection()->GetRepeatedMessage(message, field, i), *nested, respelled,
                       element + ".", parsed);
    }
  }
}

/// Entries of a list that no other list is around.
int size_of_list(const Message& config, const std::string& path) {
  const Message* message = &config;
  for (std::size_t start = 0;;) {
    const std::size_t end = path.find('.', start);
    const FieldDescriptor* field = message->GetDescriptor()->FindFieldByName(path.substr(start, end - start));
    if (end == std::string::npos) return message->GetReflection()->FieldSize(*message, field);
    message = &message->GetReflection()->GetMessage(*message, field);
    start = end + 1;
  }
}

}  // namespace

std::string in_our_words(const FirstError& error) {
  if (const auto unknown = unknown_field(error.message)) {
    std::vector<std::string> names;
    for (int i = 0; i < unknown->type->field_count(); ++i) names.push_back(unknown->type->field(i)->name());
    return fmt::format("there is no field {}, {}", shortened(unknown->name),
                       suggestion(shortened(unknown->name), names));
  }
  std::string what = error.message;
  while (what.ends_with('.')) what.pop_back();
  return what;
}

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
  const Respelled respelled = launch::respelled(text, *parsed.message.GetDescriptor());
  if (!parser.ParseFromString(respelled.text, &parsed.message)) fail_usage("{}", explain(respelled, name, error));
  collect_places(parsed.message, tree, respelled, "", parsed);
  return parsed;
}

void merge(ParsedConfig& base, const ParsedConfig& more) {
  for (const auto& [path, place] : more.places) {
    const std::size_t open = path.find('[');
    if (open == std::string::npos) {
      base.places[path] = place;
      continue;
    }
    const std::string list = path.substr(0, open);
    const int index = size_of_list(base.message, list) + std::stoi(path.substr(open + 1));
    base.places[fmt::format("{}[{}{}", list, index, path.substr(path.find(']')))] = place;
  }
  base.message.MergeFrom(more.message);
}

}  // namespace limbeck::launch
