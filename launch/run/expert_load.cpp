#include "launch/run/expert_load.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace limbeck::launch {

ExpertLoad expert_load(std::span<const double> assignments, double chosen) {
  const double total = std::accumulate(assignments.begin(), assignments.end(), 0.0);
  if (total <= 0) return {.drops = chosen};
  double entropy = 0;
  for (const double n : assignments)
    if (n > 0) entropy -= n / total * std::log(n / total);
  const auto [least, most] = std::minmax_element(assignments.begin(), assignments.end());
  const double even = std::log(static_cast<double>(assignments.size()));
  return {*least / total, *most / total, chosen - total, even > 0 ? entropy / even : 1};
}

}  // namespace limbeck::launch
