// The fields of a config.json, each read with its place in the message.
//
//     const ConfigFields fields(json, "model/config.json");
//     config.width = fields.integer("hidden_size");
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>

#include "core/error.h"

namespace limbeck::data {

class ConfigFields {
 public:
  using Json = nlohmann::ordered_json;

  ConfigFields(Json json, std::string where) : json_(std::move(json)), where_(std::move(where)) {
    core::check(json_.is_object(), "{}: is {}, expected an object", where_, json_.type_name());
  }

  bool has(const char* name) const { return json_.contains(name) && !json_[name].is_null(); }
  bool is_null(const char* name) const { return json_.contains(name) && json_[name].is_null(); }
  std::string text(const char* name) const { return has(name) ? json_[name].dump() : "absent"; }

  std::int64_t integer(const char* name) const {
    core::check(has(name) && json_[name].is_number_integer(), "{}: {} is {}, expected a whole number", where_, name,
                text(name));
    return json_[name].get<std::int64_t>();
  }
  std::int64_t integer_or(const char* name, std::int64_t otherwise) const {
    return has(name) ? integer(name) : otherwise;
  }
  double number(const char* name) const {
    core::check(has(name), "{}: {} is absent, expected a number", where_, name);
    return number_or(name, 0);
  }
  double number_or(const char* name, double otherwise) const {
    core::check(!has(name) || json_[name].is_number(), "{}: {} is {}, expected a number", where_, name, text(name));
    return has(name) ? json_[name].get<double>() : otherwise;
  }
  bool flag(const char* name, bool otherwise = false) const {
    core::check(!has(name) || json_[name].is_boolean(), "{}: {} is {}, expected true or false", where_, name,
                text(name));
    return has(name) ? json_[name].get<bool>() : otherwise;
  }
  ConfigFields section(const char* name) const {
    core::check(has(name) && json_[name].is_object(), "{}: {} is {}, expected an object", where_, name, text(name));
    return {json_[name], where_ + ": " + name};
  }
  /// Throws unless the field is absent, null, or the one value that Limbeck computes.
  void expect(const char* name, const Json& only) const {
    core::check(!has(name) || json_[name] == only, "{}: {} is {}, which is not supported: expected {}", where_, name,
                text(name), only.dump());
  }
  const Json& json() const { return json_; }
  const std::string& where() const { return where_; }

 private:
  Json json_;
  std::string where_;
};

}  // namespace limbeck::data
