#include "launch/config/config_differences.h"

#include <google/protobuf/text_format.h>

#include <algorithm>
#include <map>

#include "launch/config/config_text.h"

namespace limbeck::launch {

namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using Json = nlohmann::ordered_json;

/// A value, or the element `index` of a list.
Json value_of(const Message& message, const FieldDescriptor& field, int index) {
  google::protobuf::TextFormat::Printer printer;
  printer.SetSingleLineMode(true);
  std::string text;
  printer.PrintFieldValueToString(message, &field, index, &text);
  while (text.ends_with(' ')) text.pop_back();
  const auto* reflection = message.GetReflection();
  switch (field.cpp_type()) {
    case FieldDescriptor::CPPTYPE_STRING:
      return index < 0 ? reflection->GetString(message, &field) : reflection->GetRepeatedString(message, &field, index);
    case FieldDescriptor::CPPTYPE_MESSAGE:
    case FieldDescriptor::CPPTYPE_ENUM:
      return text;
    default: {
      Json number = Json::parse(text, nullptr, /*allow_exceptions=*/false);
      return number.is_discarded() ? Json(text) : number;
    }
  }
}

class Fields {
 public:
  explicit Fields(std::size_t num_configs) : num_configs_(num_configs) {}

  void add(const Message& message, const std::string& prefix, std::size_t config) {
    const auto* type = message.GetDescriptor();
    const auto* reflection = message.GetReflection();
    for (int i = 0; i < type->field_count(); ++i) {
      const FieldDescriptor& field = *type->field(i);
      const std::string path = prefix + field.name();
      if (field.is_repeated()) {
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

  std::vector<ConfigDifference> differences() const {
    std::vector<ConfigDifference> result;
    for (const std::string& path : order_) {
      const std::vector<Json>& values = values_.at(path);
      const bool is_same =
          std::all_of(values.begin(), values.end(), [&](const Json& value) { return value == values.front(); });
      if (!is_same) result.push_back({path, values});
    }
    return result;
  }

 private:
  void note(const std::string& path, std::size_t config, Json value) {
    const auto [place, is_new] = values_.try_emplace(path, num_configs_, nullptr);
    if (is_new) order_.push_back(path);
    place->second[config] = std::move(value);
  }

  std::size_t num_configs_;
  std::vector<std::string> order_;
  std::map<std::string, std::vector<Json>> values_;
};

}  // namespace

std::vector<ConfigDifference> config_differences(const std::vector<RunConfig>& configs) {
  Fields fields(configs.size());
  for (std::size_t i = 0; i < configs.size(); ++i)
    fields.add(parse_text(to_textproto(configs[i]), "config").message, "", i);
  return fields.differences();
}

}  // namespace limbeck::launch
