#include "launch/config/config_differences.h"

#include <fmt/format.h>
#include <google/protobuf/text_format.h>

#include <algorithm>
#include <map>
#include <optional>
#include <set>

#include "launch/config/config_text.h"

namespace limbeck::launch {

namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using Json = nlohmann::ordered_json;

/// A value, or the element `index` of a list; of a section nothing is asked.
Json value_of(const Message& message, const FieldDescriptor& field, int index) {
  const auto* reflection = message.GetReflection();
  if (field.cpp_type() == FieldDescriptor::CPPTYPE_STRING)
    return index < 0 ? reflection->GetString(message, &field) : reflection->GetRepeatedString(message, &field, index);
  std::string text;
  google::protobuf::TextFormat::Printer().PrintFieldValueToString(message, &field, index, &text);
  Json number = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  return number.is_discarded() ? Json(text) : number;  // a choice, or a number that JSON has not
}

/// The names of the entries of a list of sections, where all have one and no two the same; else nothing.
std::optional<Json> names_of(const Message& message, const FieldDescriptor& list) {
  const auto* reflection = message.GetReflection();
  const FieldDescriptor* name = list.message_type()->FindFieldByName("name");
  Json names = Json::array();
  std::set<std::string> distinct;
  for (int k = 0; k < reflection->FieldSize(message, &list); ++k) {
    const Message& entry = reflection->GetRepeatedMessage(message, &list, k);
    names.push_back(name == nullptr ? "" : entry.GetReflection()->GetString(entry, name));
    distinct.insert(names.back().get<std::string>());
  }
  return distinct.size() == names.size() && !distinct.contains("") ? std::make_optional(names) : std::nullopt;
}

bool is_nothing(const Json& value) { return value.empty() || value == Json(""); }

class Fields {
 public:
  explicit Fields(std::size_t num_configs) : num_configs_(num_configs) {}

  void add(const Message& message, const std::string& prefix, std::size_t config) {
    const auto* type = message.GetDescriptor();
    const auto* reflection = message.GetReflection();
    for (int i = 0; i < type->field_count(); ++i) {
      const FieldDescriptor& field = *type->field(i);
      const std::string path = prefix + field.name();
      if (field.is_repeated() && field.message_type() != nullptr) {
        add_list(message, field, path, config);
      } else if (field.is_repeated()) {
        Json list = Json::array();
        for (int k = 0; k < reflection->FieldSize(message, &field); ++k) list.push_back(value_of(message, field, k));
        note(path, config, std::move(list));
      } else if (field.message_type() == nullptr) {
        note(path, config, value_of(message, field, -1));
      } else if (reflection->HasField(message, &field)) {
        add(reflection->GetMessage(message, &field), path + ".", config);
      }
    }
  }

  /// An entry that one config has and another has not differs in what it sets, and not in what is empty there.
  std::vector<ConfigDifference> differences() const {
    std::vector<ConfigDifference> result;
    for (const std::string& path : order_) {
      const std::vector<Json>& values = values_.at(path);
      const bool is_same =
          std::all_of(values.begin(), values.end(), [&](const Json& value) { return value == values.front(); }) ||
          std::all_of(values.begin(), values.end(), is_nothing);
      if (!is_same) result.push_back({path, values});
    }
    return result;
  }

 private:
  /// The entries by their fields, and of those with names the names: in which order they stand is a difference too.
  void add_list(const Message& message, const FieldDescriptor& list, const std::string& path, std::size_t config) {
    const std::optional<Json> names = names_of(message, list);
    if (names) note(path, config, *names);
    for (int k = 0; k < message.GetReflection()->FieldSize(message, &list); ++k)
      add(message.GetReflection()->GetRepeatedMessage(message, &list, k),
          fmt::format("{}[{}].", path,
                      names ? names->at(static_cast<std::size_t>(k)).get<std::string>() : std::to_string(k)),
          config);
  }

  void note(const std::string& path, std::size_t config, Json value) {
    const auto [place, is_new] = values_.try_emplace(path, num_configs_, nullptr);
    auto here = is_new ? order_.end() : std::find(order_.begin(), order_.end(), path);
    if (is_new) here = order_.insert(order_.begin() + static_cast<std::ptrdiff_t>(next_), path);
    next_ = static_cast<std::size_t>(here - order_.begin()) + 1;
    place->second[config] = std::move(value);
  }

  std::size_t num_configs_;
  std::size_t next_ = 0;  // in order_: what a config alone has stands behind what it has before it
  std::vector<std::string> order_;
  std::map<std::string, std::vector<Json>> values_;
};

}  // namespace

bool ConfigDifference::lies_in(std::string_view section) const {
  return field.starts_with(section) &&
         (field.size() == section.size() || field[section.size()] == '.' || field[section.size()] == '[');
}

std::vector<ConfigDifference> config_differences(const std::vector<RunConfig>& configs) {
  Fields fields(configs.size());
  for (std::size_t i = 0; i < configs.size(); ++i)
    fields.add(parse_text(to_textproto(configs[i]), "config").message, "", i);
  return fields.differences();
}

}  // namespace limbeck::launch
