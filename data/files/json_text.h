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

#include "core/error.h"
#include "data/files/file_kind.h"

namespace limbeck::data {

/// What the JSON library says is wrong, without its own marks and with no more of the text than shows the place.
std::string json_reason(const std::exception& error);

/// Whether the JSON library would stop inside of the text as if it ended there: at a zero byte, which no JSON has.
inline bool has_zero_byte(std::string_view text) { return text.find('\0') != std::string_view::npos; }

/// Throws "where: ..." for what is nested more than 64 deep, has a key twice in one object, or a zero byte.
void check_structure(std::string_view json, const std::string& where);

/// As a file or a command shows it: indented. What is no UTF-8, as a text that was cut amid a character, becomes U+FFFD.
template <class Json>
std::string indented(const Json& json) {
  return json.dump(1, ' ', false, Json::error_handler_t::replace) + '\n';
}

/// Throws "where: ..." for what is no JSON, and as check_structure.
template <class Json>
Json parse_json(std::string_view text, const std::string& where) {
  check_structure(text, where);
  try {
    return Json::parse(text);
  } catch (const typename Json::exception& error) {
    refuse_other_kind(where, text, "JSON");
    core::fail("{}: {}", where, json_reason(error));
  }
}

}  // namespace limbeck::data
