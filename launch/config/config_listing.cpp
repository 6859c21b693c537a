// --help-fields: every field with its default and what it may be.
#include <google/protobuf/descriptor.h>

#include <type_traits>
#include <utility>

#include "launch/config/config.pb.h"
#include "launch/config/config_fields.h"
#include "launch/config/config_text.h"

namespace limbeck::launch {

using google::protobuf::Descriptor;
using google::protobuf::FieldDescriptor;

namespace {

/// A visitor of config_fields.h.
class Lister {
 public:
  Lister(const Descriptor& type, std::string prefix, std::string& out)
      : type_(type), prefix_(std::move(prefix)), out_(out) {}

  void operator()(const char* name, bool value) { line(name, value ? "true" : "false", expected(name)); }
  void operator()(const char* name, const std::string& value) { line(name, '"' + value + '"', expected(name)); }
  void operator()(const char* name, std::uint64_t value) { line(name, fmt::format("{}", value), expected(name)); }
  template <class Number>
  requires std::is_arithmetic_v<Number>
  void operator()(const char* name, Number value, const Range& range) { number(name, fmt::format("{}", value), range); }
  template <class Number>
  requires std::is_arithmetic_v<Number>
  void operator()(const char* name, const std::optional<Number>&, const Range& range) { number(name, "none", range); }
  void derived(const char* name, std::int64_t, std::int64_t) {
    line(name, "0", "a whole number, 0 or more; 0: follows from other fields");
  }
  template <class E>
  requires std::is_enum_v<E>
  void operator()(const char* name, E value) {
    line(name, field(name).enum_type()->FindValueByNumber(static_cast<int>(value))->name(), expected(name));
  }
  template <class Entry>
  void operator()(const char* name, const std::vector<Entry>&) {
    if constexpr (std::is_class_v<Entry> && !std::is_same_v<Entry, std::string>) {
      Entry entry;
      section(fmt::format("{}[].", name), name, entry);
    } else {
      line(name, "[]", "a list of: " + expected(name));
    }
  }
  template <class Section>
  requires std::is_class_v<Section>
  void operator()(const char* name, const Section& value) {
    Section copy = value;
    section(fmt::format("{}.", name), name, copy);
  }
  template <class Section>
  requires std::is_class_v<Section>
  void operator()(const char* name, const std::optional<Section>&) {
    Section absent;
    section(fmt::format("{}.", name), name, absent);
  }

 private:
  const FieldDescriptor& field(const char* name) const { return *type_.FindFieldByName(name); }
  std::string expected(const char* name) const { return expected_of(field(name)); }
  void line(const char* name, const std::string& value, const std::string& takes) {
    out_ += fmt::format("{:<40}  {:<16}  {}\n", prefix_ + name, value, takes);
  }
  void number(const char* name, const std::string& value, const Range& range) {
    const bool is_plain = range.expected.find("number") != std::string::npos;  // "a number above 0"
    line(name, value, is_plain ? range.expected : fmt::format("{}, {}", expected(name), range.expected));
  }
  template <class Section>
  void section(const std::string& path, const char* name, Section& values) {
    Lister nested(*field(name).message_type(), prefix_ + path, out_);
    fields(nested, values);
  }

  const Descriptor& type_;
  std::string prefix_;
  std::string& out_;
};

}  // namespace

std::string fields_as_text() {
  std::string out =
      "Every field of a CONFIG, its default and what it takes; docs/config.md says what each means. In a file\n"
      "  section { field: value }      on the command line      --set section.field=value\n\n";
  RunConfig config;
  Lister lister(*config::Config::descriptor(), "", out);
  fields(lister, config);
  return out;
}

}  // namespace limbeck::launch
