// What is said of how evenly a layer's experts are used.
//
//     ExpertLoad load = expert_load({30, 10, 0, 24}, 70);   // assignments that each expert took, of 70
//     load.entropy;                                         // 1: all experts alike; 0: one has everything
#pragma once

#include <span>

namespace limbeck::launch {

struct ExpertLoad {
  double min = 0;      // least share of the assignments that an expert got
  double max = 0;      // greatest
  double drops = 0;    // assignments that no expert took
  double entropy = 0;  // -sum_e s_e log s_e of the shares, over log E
};

/// Shares are of what was taken. All 0 but the drops where nothing was. A single expert has entropy 1.
ExpertLoad expert_load(std::span<const double> assignments, double chosen);

}  // namespace limbeck::launch
