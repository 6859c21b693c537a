// Values that are exactly bfloat16, and how far a result of them may lie from the one computed in float64.
//
//     const auto x = random_bf16(n, /*seed=*/1);
//     swiglu(cpu, x.data(), ..., y.data(), n);
//     swiglu(cpu, all_as<double>(x).data(), ..., expected.data(), n);
//     expect_rounded(y, expected, /*slack=*/1e-6);
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <random>
#include <vector>

#include "kernels/bf16.h"

namespace limbeck::testing {

/// Normal numbers of this deviation, rounded.
inline std::vector<kernels::bf16> random_bf16(std::int64_t n, unsigned seed, float deviation = 1) {
  std::mt19937 engine(seed);
  std::normal_distribution<float> normal(0, deviation);
  std::vector<kernels::bf16> x(static_cast<std::size_t>(n));
  for (auto& value : x) value = kernels::bf16(normal(engine));
  return x;
}

template <class To, class From>
std::vector<To> all_as(const std::vector<From>& x) {
  std::vector<To> y;
  for (const From& value : x) y.push_back(kernels::as<To>(value));
  return y;
}

/// The greatest error of one rounding to T, by the value rounded.
template <class T>
constexpr double rounding = std::is_same_v<T, kernels::bf16> ? 0x1p-8
                            : std::is_same_v<T, float>       ? 0x1p-24
                                                             : 0x1p-53;

/// Each y is its expected value rounded once, after an absolute error of at most `slack` in what was rounded.
template <class T>
void expect_rounded(const std::vector<T>& y, const std::vector<double>& expected, double slack) {
  ASSERT_EQ(y.size(), expected.size());
  for (std::size_t i = 0; i < y.size(); ++i)
    ASSERT_LE(std::abs(kernels::as<double>(y[i]) - expected[i]), rounding<T> * (std::abs(expected[i]) + slack) + slack)
        << "element " << i << " is " << kernels::as<double>(y[i]) << ", expected " << expected[i];
}

}  // namespace limbeck::testing
