#include "launch/commands/inspection.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <cctype>

#include "launch/console/columns.h"
#include "launch/console/log.h"

namespace limbeck::launch {

using Json = nlohmann::ordered_json;

namespace {

bool is_digit(char c) { return c >= '0' && c <= '9'; }

/// The digits that `text` begins with.
std::string_view digits(std::string_view text) {
  return text.substr(0, static_cast<std::size_t>(std::find_if_not(text.begin(), text.end(), is_digit) - text.begin()));
}

std::string size_text(double bytes) {
  if (bytes < 1024) return fmt::format("{:.0f} B", bytes);
  if (bytes < 1024.0 * 1024) return fmt::format("{:.1f} KiB", bytes / 1024);
  return fmt::format("{:.1f} MiB", bytes / 1024 / 1024);
}

}  // namespace

bool natural_less(std::string_view a, std::string_view b) {
  const std::string_view whole_a = a, whole_b = b;
  while (!a.empty() && !b.empty()) {
    std::string_view x = digits(a), y = digits(b);
    if (x.empty() || y.empty()) {
      if (a.front() != b.front()) return a.front() < b.front();
      a.remove_prefix(1);
      b.remove_prefix(1);
      continue;
    }
    a.remove_prefix(x.size());
    b.remove_prefix(y.size());
    x.remove_prefix(std::min(x.find_first_not_of('0'), x.size()));
    y.remove_prefix(std::min(y.find_first_not_of('0'), y.size()));
    if (x.size() != y.size()) return x.size() < y.size();
    if (x != y) return x < y;
  }
  if (a.empty() != b.empty()) return a.empty();
  return whole_a < whole_b;  // those that differ in zeros in front alone
}

std::string shown_text(std::string_view text) {
  constexpr std::size_t most = 60;
  std::string out;
  for (const char c : text.substr(0, most)) out += static_cast<unsigned char>(c) < 0x20 || c == 0x7f ? ' ' : c;
  return text.size() > most ? fmt::format("\"{}...\" ({} bytes)", out, text.size()) : fmt::format("\"{}\"", out);
}

Inspection::Inspection(const std::string& kind, const std::filesystem::path& path) {
  add("kind", kind);
  add_member("path", path.string());
}

void Inspection::add(const std::string& name, Json value, const std::string& shown) {
  std::string member = name;
  std::replace(member.begin(), member.end(), ' ', '_');
  json_[member] = std::move(value);
  add_line(name, shown);
}

void Inspection::add_line(const std::string& name, const std::string& shown) {
  lines_.push_back({.name = name, .shown = one_line(shown)});
}

void Inspection::add(const std::string& name, const Json& value) {
  add(name, value,
      value.is_string() ? value.get<std::string>() : value.dump(-1, ' ', false, Json::error_handler_t::replace));
}

void Inspection::add_member(const std::string& name, Json value) { json_[name] = std::move(value); }

void Inspection::add_tensor(const std::string& name, std::string_view type, const core::Shape& shape,
                            std::optional<std::int64_t> bytes) {
  tensors_.push_back({name, std::string(type), shape, bytes});
}

void Inspection::add_readable(const std::string& why_not) {
  add("readable", why_not.empty(), why_not.empty() ? "yes" : "no");
  if (!why_not.empty()) add("why not", why_not);
}

std::vector<Inspection::Tensor> Inspection::in_order() const {
  std::vector<Tensor> tensors = tensors_;
  std::stable_sort(tensors.begin(), tensors.end(),
                   [](const Tensor& a, const Tensor& b) { return natural_less(a.name, b.name); });
  return tensors;
}

std::map<std::string, Inspection::Sum> Inspection::by_type() const {
  std::map<std::string, Sum> sums;
  for (const Tensor& t : tensors_) {
    Sum& sum = sums[t.type];
    ++sum.tensors;
    sum.elements += t.shape.numel();
    sum.bytes += t.bytes.value_or(0);
  }
  return sums;
}

std::string Inspection::to_text() const {
  std::size_t width = 11;
  for (const Line& line : lines_) width = std::max(width, line.name.size());
  std::string text;
  for (const Line& line : lines_)
    text += line.name.empty() ? line.shown : fmt::format("{:<{}} {}\n", line.name, width, line.shown);
  if (tensors_.empty()) return text;
  std::vector<std::vector<std::string>> rows;
  double bytes = 0, elements = 0;
  for (const Tensor& t : in_order()) {
    rows.push_back({one_line(t.name), t.type, fmt::format("{}", t.shape),
                    t.bytes ? size_text(static_cast<double>(*t.bytes)) : ""});
    bytes += static_cast<double>(t.bytes.value_or(0));
    elements += static_cast<double>(t.shape.numel());
  }
  std::vector<std::string> types;
  for (const auto& [type, sum] : by_type())
    types.push_back(fmt::format("{} {} ({})", sum.tensors, type, size_text(static_cast<double>(sum.bytes))));
  return text + fmt::format("{:<{}} {}\n", "types", width, fmt::join(types, ", ")) +
         fmt::format("{:<{}} {}, {:.0f} elements, {}\n", "tensors", width, tensors_.size(), elements,
                     size_text(bytes)) +
         aligned(rows, 2);
}

Json Inspection::to_json() const {
  Json json = json_;
  if (tensors_.empty()) return json;
  std::int64_t bytes = 0;
  json["types"] = Json::object();
  for (const auto& [type, sum] : by_type()) {
    json["types"][type] = {{"tensors", sum.tensors}, {"elements", sum.elements}, {"bytes", sum.bytes}};
    bytes += sum.bytes;
  }
  json["bytes"] = bytes;
  json["tensors"] = Json::array();
  for (const Tensor& t : in_order()) {
    Json tensor = {{"name", t.name}, {"type", t.type}, {"shape", Json::array()}};
    for (const std::int64_t extent : t.shape.extents()) tensor["shape"].push_back(extent);
    if (t.bytes) tensor["bytes"] = *t.bytes;
    json["tensors"].push_back(std::move(tensor));
  }
  return json;
}

}  // namespace limbeck::launch
