// --set: fields of a config from the command line.
#include <google/protobuf/text_format.h>

#include <algorithm>
#include <charconv>
#include <optional>
#include <set>
#include <string_view>
#include <utility>

#include "core/error.h"
#include "launch/config/config_spelling.h"
#include "launch/config/config_text.h"

namespace limbeck::launch {

using core::fail_usage;
using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::TextFormat;

namespace {

/// One value of a --set into the message. A string needs no quotes.
void set_value(Message& message, const FieldDescriptor& field, const std::string& set, const std::string& value) {
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
  const std::string name = field.name() + ": ";
  const std::string spelt = respelled(name + value, *field.containing_type()).text.substr(name.size());
  FirstError error;
  TextFormat::Parser parser;
  parser.RecordErrorsTo(&error);
  if (parser.ParseFieldValueFromString(spelt, &field, &message)) return;
  if (field.message_type() != nullptr && value.starts_with('{')) fail_usage("--set {}: {}", set, in_our_words(error));
  fail_usage("--set {}: the value is '{}', expected {}", set, value, expected_of(field));
}

/// "[a, b]"; nothing at all is the empty list too, and everything else a list of one.
std::vector<std::string> list_items(const std::string& list, const std::string& set) {
  if (list.starts_with('[') && !list.ends_with(']'))
    fail_usage("--set {}: the list ends without ], expected [a, b], or quotes around a value that begins so", set);
  if (!list.empty() && (list.size() < 2 || list.front() != '[' || list.back() != ']')) return {list};
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

/// "model { width: 64 }", or "model={ width: 64 }" as "model:{ width: 64 }": what a file could say, column by column.
/// Nothing where the set is a path and a value, or adds to a list.
std::optional<std::string> as_file(std::string set) {
  const std::size_t equals = set.find('='), brace = set.find('{');
  if (brace == std::string::npos || brace < equals) return brace < equals ? std::optional(set) : std::nullopt;
  const FieldDescriptor* field = config::Config::descriptor()->FindFieldByName(set.substr(0, equals));
  if (field == nullptr || field->message_type() == nullptr || set.find_first_not_of(' ', equals + 1) != brace)
    return std::nullopt;
  set[equals] = ':';
  return set;
}

/// The i of "name[i]", which becomes "name"; nothing where there is none. No number is -1, which no list has.
std::optional<int> take_index(std::string& name) {
  const std::size_t open = name.find('[');
  if (open == std::string::npos || !name.ends_with(']')) return std::nullopt;
  const std::string_view digits = std::string_view(name).substr(open + 1, name.size() - open - 2);
  int index = -1;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), index);
  if (error != std::errc{} || end != digits.data() + digits.size()) index = -1;
  name.resize(open);
  return index;
}

/// A --set, and what it sets.
class Setting {
 public:
  Setting(ParsedConfig& parsed, const std::string& set) : parsed_(parsed), set_(set) {
    const std::size_t equals = set.find('=');
    if (equals == std::string::npos || equals == 0) fail_usage("--set {}: expected section.field=value", set);
    appends_ = set[equals - 1] == '+';
    path_ = set.substr(0, equals - (appends_ ? 1 : 0));
    value_ = set.substr(equals + 1);
    find();
  }

  /// `replaced` are the lists that an earlier --set has cleared.
  void apply(std::set<std::string>& replaced) {
    const bool is_section = field_->message_type() != nullptr;
    const bool is_list = field_->is_repeated() && !index_;
    if (appends_ && !is_list) fail_usage("--set {}: {} is no list, expected {}=value", set_, path_, path_);
    if (is_section && !is_list && !index_ && value_.empty()) {
      message_->GetReflection()->ClearField(message_, field_);
      return forget(path_ + ".");
    }
    if (is_section && !field_->is_repeated()) {
      std::vector<std::string> inner;
      collect_paths(*field_->message_type(), path_ + ".", inner);
      fail_usage("--set {}: {} is a section, expected one of its fields: {}", set_, path_, fmt::join(inner, ", "));
    }
    if (is_list) return apply_to_list(replaced);
    check_alternatives();
    parsed_.places[path_] = "--set " + set_;
    set_value(*message_, *field_, set_, value_);
    if (!index_) return;
    // It was appended; now it takes its place.
    const auto* reflection = message_->GetReflection();
    reflection->SwapElements(message_, field_, *index_, reflection->FieldSize(*message_, field_) - 1);
    reflection->RemoveLast(message_, field_);
    forget(path_ + ".");
  }

 private:
  void find() {
    message_ = &parsed_.message;
    for (std::size_t start = 0; start <= path_.size();) {
      const std::size_t end = std::min(path_.find('.', start), path_.size());
      if (field_ != nullptr) enter(path_.substr(0, start - 1));
      std::string name = path_.substr(start, end - start);
      index_ = take_index(name);
      field_ = message_ != nullptr ? message_->GetDescriptor()->FindFieldByName(name) : nullptr;
      if (field_ == nullptr) {
        fail_usage("--set {}: there is no field {}, {}", set_, path_, suggestion(path_, paths_like(start)));
      }
      if (index_) check_index(path_.substr(0, start) + name);
      start = end + 1;
    }
  }

  /// Every path of the schema, and what the section that the path has come to has at `start`: entries of lists too.
  std::vector<std::string> paths_like(std::size_t start) const {
    std::vector<std::string> paths;
    collect_paths(*parsed_.message.GetDescriptor(), "", paths);
    for (int i = 0; message_ != nullptr && i < message_->GetDescriptor()->field_count(); ++i) {
      const std::string path = path_.substr(0, start) + message_->GetDescriptor()->field(i)->name();
      if (std::find(paths.begin(), paths.end(), path) == paths.end()) paths.push_back(path);
    }
    return paths;
  }

  /// Goes on into the section that was found.
  void enter(const std::string& so_far) {
    const auto* reflection = message_->GetReflection();
    if (field_->message_type() == nullptr) {
      message_ = nullptr;
    } else if (!field_->is_repeated()) {
      message_ = reflection->MutableMessage(message_, field_);
    } else if (index_) {
      message_ = reflection->MutableRepeatedMessage(message_, field_, *index_);
    } else {
      fail_usage("--set {}: {} is a list of sections, expected --set '{}={{ field: value ... }}' or {}[0].field=value",
                 set_, so_far, so_far, so_far);
    }
  }

  void check_index(const std::string& list) const {
    if (!field_->is_repeated()) fail_usage("--set {}: {} is no list, expected {}=value", set_, list, list);
    const int size = message_->GetReflection()->FieldSize(*message_, field_);
    if (*index_ < 0 || *index_ >= size)
      fail_usage("--set {}: {} has {} entries, expected {}", set_, list, size,
                 size == 0 ? list + "+=value" : fmt::format("one of 0 to {}", size - 1));
  }

  /// Two alternatives on one command line are a mistake; over one in a file, the later wins.
  void check_alternatives() const {
    const auto* alternatives = field_->real_containing_oneof();
    if (alternatives == nullptr) return;
    for (int i = 0; i < alternatives->field_count(); ++i) {
      const FieldDescriptor* other = alternatives->field(i);
      const auto place = parsed_.places.find(path_.substr(0, path_.rfind('.') + 1) + other->name());
      if (other != field_ && place != parsed_.places.end() && place->second.starts_with("--set "))
        fail_usage("--set {}: {} is given too, expected one of them", set_, place->second);
    }
  }

  void apply_to_list(std::set<std::string>& replaced) {
    const auto* reflection = message_->GetReflection();
    parsed_.places[path_] = "--set " + set_;
    const std::vector<std::string> items = list_items(value_, set_);
    if (!appends_ && (replaced.insert(path_).second || items.empty())) {
      reflection->ClearField(message_, field_);
      forget(path_ + "[");
    }
    for (const std::string& item : items) {
      set_value(*message_, *field_, set_, item);
      parsed_.places[fmt::format("{}[{}]", path_, reflection->FieldSize(*message_, field_) - 1)] =
          parsed_.places[path_];
    }
  }

  void forget(const std::string& prefix) {
    std::erase_if(parsed_.places, [&](const auto& place) { return place.first.starts_with(prefix); });
  }

  ParsedConfig& parsed_;
  const std::string& set_;
  std::string path_, value_;
  bool appends_ = false;
  Message* message_ = nullptr;
  const FieldDescriptor* field_ = nullptr;
  std::optional<int> index_;  // of the entry of the list `field_`
};

}  // namespace

void apply_sets(ParsedConfig& parsed, const std::vector<std::string>& sets) {
  std::set<std::string> replaced;
  for (const std::string& set : sets) {
    if (const auto text = as_file(set))
      merge(parsed, parse_text(*text, "--set " + set));
    else
      Setting(parsed, set).apply(replaced);
  }
}

}  // namespace limbeck::launch
