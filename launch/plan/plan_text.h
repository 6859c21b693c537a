// What `limbeck plan` says, to people and as JSON.
#pragma once

#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "launch/plan/layout_search.h"

namespace limbeck::launch {

struct Plan {
  RunConfig config;  // train.steps are there
  PlannedModels models;
  PlannedWorld world;
  RankPlan rank;                                        // of the config's own layout
  std::optional<Cluster> cluster = {};                  // without it nothing is known of times
  std::optional<StepTime> time = {};                    // likewise
  std::optional<RunFigures> run = {};                   // likewise
  std::vector<PlannedLayout> layouts = {};              // likewise
  std::optional<std::int64_t> sequences_an_epoch = {};  // of the text; not known without its tokens
};

/// "1.50 MiB", "2.00 TiB".
std::string bytes_text(double bytes);
std::string bytes_text(std::int64_t bytes);
/// "12.30 ms", "1.20 s", "2 h 05 min".
std::string time_text(double seconds);

std::string plan_text(const Plan& plan);
/// docs/plan.md lists the members.
nlohmann::ordered_json plan_json(const Plan& plan);

}  // namespace limbeck::launch
