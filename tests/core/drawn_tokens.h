// Drawn tokens against the probabilities that they are drawn by.
//
//     ChiSquare drawn;
//     drawn.add(counts, expected);  // probabilities times the number of draws
//     EXPECT_LT(drawn.deviations(), chance);
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <vector>

#include "core/nn/sampling.h"

namespace limbeck::testing {

/// How many deviations a sum of squares is above what chance gives, by Wilson and Hilferty's (1931) cube root: a
/// p-value of 1e-3 is 3.09.
struct ChiSquare {
  double sum = 0, cells = 0;

  /// Counts against what is expected of each; those of which less than five are, together.
  void add(const std::vector<double>& counts, const std::vector<double>& expected) {
    double few = 0, few_expected = 0;
    const auto add_cell = [&](double count, double mean) {
      sum += (count - mean) * (count - mean) / mean;
      cells += 1;
    };
    for (std::size_t i = 0; i < counts.size(); ++i) {
      EXPECT_TRUE(expected[i] > 0 || counts[i] == 0) << "cell " << i << " has no probability";
      if (expected[i] >= 5) {
        add_cell(counts[i], expected[i]);
      } else {
        few += counts[i];
        few_expected += expected[i];
      }
    }
    if (few_expected >= 5) add_cell(few, few_expected);
    cells -= 1;  // the counts' sum is given
  }
  double deviations() const { return (std::cbrt(sum / cells) - (1 - 2 / (9 * cells))) / std::sqrt(2 / (9 * cells)); }
};
inline constexpr double chance = 3.09;

/// Of each token of a vocabulary.
inline std::vector<double> by_token(const nn::Distribution& distribution, std::size_t vocabulary) {
  std::vector<double> result(vocabulary);
  for (const auto& [token, probability] : distribution) result[static_cast<std::size_t>(token)] = probability;
  return result;
}

/// sum over v of min(p, q), by its definition.
inline double overlap(const std::vector<double>& p, const std::vector<double>& q) {
  double sum = 0;
  for (std::size_t i = 0; i < p.size(); ++i) sum += std::min(p[i], q[i]);
  return sum;
}

}  // namespace limbeck::testing
