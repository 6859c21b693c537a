// JSON from outside, which may be nested deeper than a stack holds (copies and dumps of a value recurse), say one thing
// twice, or be a text of many megabytes that a message must not repeat.
//
//     const auto json = parse_json<nlohmann::json>(text, "config.json");
//     try { json.at("size").get_to(size); } catch (const nlohmann::json::exception& error) {
//       core::fail("config.json: {}", json_reason(error));
//     }
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <unordered_set>
#include <vector>

#include "core/error.h"
#include "data/files/file_kind.h"

namespace limbeck::data {

/// What the JSON library says is wrong, without its own marks and with no more of the text than shows the place.
std::string json_reason(const std::exception& error);

/// Throws "where: ..." for what is no JSON, is nested more than 64 deep, or has a key twice in one object.
template <class Json>
Json parse_json(std::string_view text, const std::string& where) {
  std::vector<std::unordered_set<std::string>> keys;  // of the objects around
  const auto on_event = [&](int depth, typename Json::parse_event_t event, Json& value) {
    using Event = typename Json::parse_event_t;
    core::check(depth <= 64, "{}: is nested more than 64 deep", where);
    if (event == Event::object_start) keys.emplace_back();
    if (event == Event::object_end) keys.pop_back();
    if (event == Event::key) {
      const auto& key = value.template get_ref<const std::string&>();
      core::check(keys.back().insert(key).second, "{}: names \"{}\" twice", where, key.substr(0, 80));
    }
    return true;
  };
  try {
    return Json::parse(text, on_event);
  } catch (const typename Json::exception& error) {
    refuse_other_kind(where, text, "JSON");
    core::fail("{}: {}", where, json_reason(error));
  }
}

}  // namespace limbeck::data
