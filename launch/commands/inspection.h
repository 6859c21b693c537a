// What `limbeck inspect` found, as lines for people and as one JSON object.
//
//     Inspection found("GGUF", path);
//     found.add("keys", 31);                                     // keys        31
//     found.add("parameters", {{"total", 9}}, "9 in all");       // parameters  9 in all
//     found.add_tensor("embed.weight", "float32", shape, bytes);
//     write_result(json ? data::indented(found.to_json()) : found.to_text());
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/shape.h"

namespace limbeck::launch {

/// Whether `a` comes before `b` where numbers in names count as numbers: "layers.2.x" before "layers.10.x".
bool natural_less(std::string_view a, std::string_view b);

/// Text from a file, short and without control characters, in quotes.
std::string shown_text(std::string_view text);

class Inspection {
 public:
  Inspection(const std::string& kind, const std::filesystem::path& path);

  /// A member, and a line of it: as `shown`, or as the value itself; a blank of the name is "_" in JSON.
  void add(const std::string& name, nlohmann::ordered_json value, const std::string& shown);
  void add(const std::string& name, const nlohmann::ordered_json& value);
  /// A member without a line, a line without a member, and lines that are no rows.
  void add_member(const std::string& name, nlohmann::ordered_json value);
  void add_line(const std::string& name, const std::string& shown);
  void add_lines(const std::string& lines) { lines_.push_back({.name = "", .shown = lines}); }
  /// Bytes that are not known are not told. Tensors come last, in the natural order of their names.
  void add_tensor(const std::string& name, std::string_view type, const core::Shape& shape,
                  std::optional<std::int64_t> bytes);
  /// Whether Limbeck can load it; `why_not` is empty if so.
  void add_readable(const std::string& why_not);

  std::string to_text() const;
  nlohmann::ordered_json to_json() const;

 private:
  struct Line {
    std::string name;  // empty: `shown` is whole lines
    std::string shown;
  };
  struct Tensor {
    std::string name;
    std::string type;
    core::Shape shape;
    std::optional<std::int64_t> bytes;
  };
  struct Sum {
    std::int64_t tensors = 0;
    std::int64_t elements = 0;
    std::int64_t bytes = 0;  // that are known
  };
  std::vector<Tensor> in_order() const;
  std::map<std::string, Sum> by_type() const;

  nlohmann::ordered_json json_;
  std::vector<Line> lines_;
  std::vector<Tensor> tensors_;
};

}  // namespace limbeck::launch
