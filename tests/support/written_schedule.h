// A pipeline's schedule as text: "F0 F1 B0 B1" of each rank.
#pragma once

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <string>
#include <vector>

#include "parallel/pipeline/schedule.h"

namespace limbeck::testing {

inline std::vector<std::string> written(const parallel::PipelineSchedule& schedule) {
  std::vector<std::string> lines;
  for (const auto& actions : schedule.stages) {
    std::vector<std::string> names;
    for (const parallel::PipelineAction& action : actions) names.push_back(name_of(action, schedule.num_chunks));
    lines.push_back(fmt::format("{}", fmt::join(names, " ")));
  }
  return lines;
}

}  // namespace limbeck::testing
