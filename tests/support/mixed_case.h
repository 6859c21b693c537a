// Teachers whose distributions are mixed, and the mean of their probabilities by its definition, in float64.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "kernels/mixed_rows.h"

namespace limbeck::testing {

template <class T>
struct MixedCase {
  static constexpr std::int64_t n = 6, columns = 75, num_valid = 71;
  double temperature;
  std::vector<std::int32_t> targets = {3, 5, -1, 70, 0, 9};
  // Of each teacher. All lack column 4 of every row; the second lacks the first, which has no other teacher in row 1.
  std::vector<std::vector<double>> shares = {
      {0.25, 0, 0.5, 1, 0.125, 0}, {0.5, 1, 0.5, 0, 0.875, 0.5}, {0.25, 0, 0, 0, 0, 0.5}};
  std::vector<std::vector<T>> logits;
  std::vector<std::vector<double>> maxima, sums;

  explicit MixedCase(double t) : temperature(t) {
    std::mt19937 engine(7);
    std::normal_distribution<double> normal(0, 4);
    for (std::size_t k = 0; k < shares.size(); ++k) {
      std::vector<T>& z = logits.emplace_back(size());
      for (T& x : z) x = static_cast<T>(normal(engine) + 10 * static_cast<double>(k));
      for (std::int64_t i = 0; i < n; ++i) {
        z[at(i, 4)] = static_cast<T>(kernels::lacking_logit);
        if (k == 1) z[at(i, 0)] = static_cast<T>(kernels::lacking_logit);
        z[at(i, 20)] = static_cast<T>(-300 * temperature);  // whose probability no float holds
      }
      std::vector<double>&maximum = maxima.emplace_back(n), &sum = sums.emplace_back(n * kernels::num_logits_sums);
      for (std::int64_t i = 0; i < n; ++i) {
        maximum[static_cast<std::size_t>(i)] = -std::numeric_limits<double>::infinity();
        for (std::int64_t j = 0; j < num_valid; ++j)
          maximum[static_cast<std::size_t>(i)] = std::max<double>(maximum[static_cast<std::size_t>(i)], z[at(i, j)]);
        for (std::int64_t j = 0; j < num_valid; ++j)
          sum[static_cast<std::size_t>(i * kernels::num_logits_sums + kernels::StudentSumTempered)] +=
              std::exp((z[at(i, j)] - maximum[static_cast<std::size_t>(i)]) / temperature);
      }
    }
  }
  static std::size_t size() { return static_cast<std::size_t>(n * columns); }
  static std::size_t at(std::int64_t i, std::int64_t j) { return static_cast<std::size_t>(i * columns + j); }

  kernels::LogitsRows<T> rows(const T* z, const std::int32_t* of_targets) const {
    return {.n = n,
            .columns = columns,
            .num_valid = num_valid,
            .student = z,
            .targets = of_targets,
            .temperature = temperature};
  }

  /// Of mixed logits, each within a tolerance for a logit of 1. What is behind the valid columns is as it was.
  void expect(const std::vector<T>& mixed, double tolerance) const {
    for (std::int64_t i = 0; i < n; ++i)
      for (std::int64_t j = 0; j < num_valid; ++j) {
        const T found = mixed[at(i, j)];
        long double p = 0;  // the mean, of probabilities that float64 may not hold
        for (std::size_t k = 0; k < shares.size() && targets[static_cast<std::size_t>(i)] >= 0; ++k) {
          if (kernels::is_lacking(logits[k][at(i, j)])) continue;
          long double sum = 0;
          for (std::int64_t other = 0; other < num_valid; ++other)
            if (!kernels::is_lacking(logits[k][at(i, other)]))
              sum += std::exp((static_cast<long double>(logits[k][at(i, other)]) - logits[k][at(i, j)]) / temperature);
          p += shares[k][static_cast<std::size_t>(i)] / sum;
        }
        if (p == 0) {
          EXPECT_TRUE(kernels::is_lacking(found)) << i << " " << j;
          continue;
        }
        const auto expected = static_cast<double>(temperature * std::log(p));
        EXPECT_NEAR(found, expected, tolerance * std::max(1.0, std::abs(expected))) << i << " " << j;
      }
  }
};

}  // namespace limbeck::testing
