// Text format and --set into the protobuf message, with a place for every field that was given. Internal to the config.
//
//     ParsedConfig parsed = parse_text(text, "run.textproto");
//     apply_sets(parsed, {"train.steps=100"});
//     parsed.place_of("train.steps");       // "--set train.steps=100"; for others "run.textproto:7:3"
#pragma once

#include <map>
#include <string>
#include <vector>

#include "launch/config/config.pb.h"

namespace limbeck::launch {

struct ParsedConfig {
  config::Config message;
  std::string name;                           // of the file
  std::map<std::string, std::string> places;  // by field path, of fields that were given

  /// Where the field, or else the nearest section around it, was given.
  std::string place_of(const std::string& path) const;
};

/// Throws a UsageError "name:line:column: ..." at the first mistake.
ParsedConfig parse_text(const std::string& text, const std::string& name);

/// Throws a UsageError "--set a.b=v: ..." that names the nearest fields where the path is unknown.
void apply_sets(ParsedConfig& parsed, const std::vector<std::string>& sets);

}  // namespace limbeck::launch
