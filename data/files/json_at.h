// A value of a JSON document that comes from outside, with its path for messages.
//
//     JsonAt document(json, "tokenizer.json");
//     bool flag = document.at("model").flag("ignore_merges", false);
//     document.at("model").at("type").refuse("BPE");          // tokenizer.json: model.type is "Unigram", expected BPE
#pragma once

#include <cmath>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "core/error.h"

namespace limbeck::data {

class JsonAt {
 public:
  /// Refers to `json`.
  JsonAt(const nlohmann::json& json, std::string where) : json_(json), where_(std::move(where)) {}

  const nlohmann::json& json() const { return json_; }
  bool is_null() const { return json_.is_null(); }
  std::size_t size() const { return json_.size(); }
  /// "tokenizer.json: model.merges[3]"
  std::string where() const { return path_.empty() ? where_ : where_ + ": " + path_; }

  /// Member or element; null where it is absent.
  JsonAt get(std::string_view name) const {
    object();
    const auto found = json_.find(name);
    return {found == json_.end() ? null_value() : *found, where_,
            path_.empty() ? std::string(name) : fmt::format("{}.{}", path_, name)};
  }
  JsonAt at(std::string_view name) const {
    JsonAt value = get(name);
    core::check(json_.contains(name), "{} is absent", value.where());
    return value;
  }
  JsonAt at(std::size_t index) const { return {json_.at(index), where_, fmt::format("{}[{}]", path_, index)}; }

  const JsonAt& object() const { return expect(json_.is_object(), "an object"); }
  const JsonAt& array() const { return expect(json_.is_array(), "an array"); }
  const std::string& text() const { return expect(json_.is_string(), "a text").json_.get_ref<const std::string&>(); }
  bool flag() const { return expect(json_.is_boolean(), "true or false").json_.get<bool>(); }
  bool flag(std::string_view name, bool otherwise) const {
    const JsonAt value = get(name);
    return value.is_null() ? otherwise : value.flag();
  }
  /// A whole number of 64 bits. (The library would cut a greater one, or a fraction, to some other.)
  std::int64_t whole() const {
    if (!json_.is_number_integer() || (json_.is_number_unsigned() && json_.get<std::uint64_t>() > INT64_MAX))
      refuse("a whole number");
    return json_.get<std::int64_t>();
  }
  /// A whole number from 0 to below `limit`.
  std::int64_t index(std::uint64_t limit) const {
    if (!json_.is_number_unsigned() || json_.get<std::uint64_t>() >= limit)
      refuse(fmt::format("a whole number from 0 to below {}", limit));
    return json_.get<std::int64_t>();
  }

  double number() const {
    if (!json_.is_number() || !std::isfinite(json_.get<double>())) refuse("a finite number");
    return json_.get<double>();
  }

  [[noreturn]] void refuse(std::string_view expected) const {
    std::string value = json_.dump(-1, ' ', /*ensure_ascii=*/true);
    if (value.size() > 80) value = value.substr(0, 80) + "...";
    core::fail("{} is {}, expected {}", where(), value, expected);
  }

 private:
  JsonAt(const nlohmann::json& json, std::string where, std::string path)
      : json_(json), where_(std::move(where)), path_(std::move(path)) {}
  const JsonAt& expect(bool is, const char* what) const {
    if (!is) refuse(what);
    return *this;
  }
  static const nlohmann::json& null_value() {
    static const nlohmann::json null;
    return null;
  }

  const nlohmann::json& json_;
  std::string where_;
  std::string path_;
};

}  // namespace limbeck::data
