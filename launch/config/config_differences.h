// In which fields the configs of several runs differ.
//
//     for (const ConfigDifference& d : config_differences({a, b})) fmt::print("{}: {}, {}", d.field, ...d.values);
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "launch/config/config.h"

namespace limbeck::launch {

struct ConfigDifference {
  std::string field;  // "optimizer.rate", "optimizer.groups[0].rate", "data.sources[web].weight"
  std::vector<nlohmann::ordered_json> values;  // of each config; null where it has not the section
  /// Whether it is `section` ("data", "data.sources", "train.steps") or a part of it.
  bool lies_in(std::string_view section) const;
};

/// Fields in the order of the sections; those of a section's list entry by entry, each called by its `name` where all
/// of its list have one, else by its place from 0. Which entries there are, and in which order, is the value of the
/// list.
std::vector<ConfigDifference> config_differences(const std::vector<RunConfig>& configs);

}  // namespace limbeck::launch
