// In which fields the configs of several runs differ.
//
//     for (const ConfigDifference& d : config_differences({a, b})) fmt::print("{}: {}, {}", d.field, ...d.values);
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "launch/config/config.h"

namespace limbeck::launch {

struct ConfigDifference {
  std::string field;                           // "optimizer.rate"
  std::vector<nlohmann::ordered_json> values;  // of each config; null where it has not the section
};

/// Fields in the order of the sections; an element of a list is in text format where it is a section.
std::vector<ConfigDifference> config_differences(const std::vector<RunConfig>& configs);

}  // namespace limbeck::launch
