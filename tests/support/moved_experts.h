// Experts of the golden mixture that lie elsewhere than in the model's order, and what has then to be where.
//
//     placement.go_on_with(other_orders(/*step=*/1), {}, "here");
//     expect_moved(before, behind, other_orders(1));          // both by what ranks would write
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "launch/run/expert_placement.h"
#include "tests/support/golden_steps.h"

namespace limbeck::testing {

/// Of its two layers' eight experts, or of as many as 3 does not divide, another for each layer and step.
inline launch::ExpertPlacement::Orders other_orders(std::int64_t step, std::int64_t num_experts = 8) {
  launch::ExpertPlacement::Orders orders(2);
  for (std::int64_t layer = 0; layer < 2; ++layer)
    for (std::int64_t i = 0; i < num_experts; ++i)
      orders[static_cast<std::size_t>(layer)].push_back((3 * i + 5 * step + layer) % num_experts);
  return orders;
}

/// What ranks would write, of parameters that are not trained too.
inline core::StateDict kept_of(GoldenSteps& steps) {
  core::StateDict state = steps.state();
  for (const core::Parameter* p : steps.student().parameters())
    if (!state.contains(p->name)) state[p->name] = p->entry(p->value);
  return state;
}

/// In every bit: of experts in these orders what was in the model's, of all else what was. How many stacks there are.
inline int expect_moved(const std::map<std::string, std::vector<double>>& before,
                        const std::map<std::string, std::vector<double>>& behind,
                        const launch::ExpertPlacement::Orders& orders) {
  int num_stacks = 0;
  for (const auto& [name, values] : before) {
    std::vector<double> expected = values;
    if (name.find(".experts.") != std::string::npos) {
      ++num_stacks;
      const auto& order = orders.at(static_cast<std::size_t>(name[name.find("layers.") + 7] - '0'));
      const std::int64_t size = std::ssize(values) / std::ssize(order);
      expected.clear();
      for (const std::int64_t expert : order)
        expected.insert(expected.end(), values.begin() + expert * size, values.begin() + (expert + 1) * size);
    }
    EXPECT_EQ(behind.at(name), expected) << name;
  }
  EXPECT_EQ(behind.size(), before.size());
  return num_stacks;
}

}  // namespace limbeck::testing
