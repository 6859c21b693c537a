// JSON from outside, which may be nested deeper than a stack holds: copies and dumps of a value recurse.
//
//     const auto json = parse_json<nlohmann::json>(text, "config.json");
#pragma once

#include <nlohmann/json.hpp>

#include <string>
#include <string_view>

#include "core/error.h"
#include "data/files/file_kind.h"

namespace limbeck::data {

/// Throws "where: ..." for what is no JSON or is nested more than 64 deep.
template <class Json>
Json parse_json(std::string_view text, const std::string& where) {
  try {
    return Json::parse(text, [&](int depth, typename Json::parse_event_t, Json&) {
      core::check(depth <= 64, "{}: is nested more than 64 deep", where);
      return true;
    });
  } catch (const typename Json::exception& error) {
    refuse_other_kind(where, text, "JSON");
    core::fail("{}: {}", where, error.what());
  }
}

}  // namespace limbeck::data
