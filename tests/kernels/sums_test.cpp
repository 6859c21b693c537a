#include "kernels/sums.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "tests/support/bf16_values.h"

namespace limbeck::kernels {
namespace {

template <class T>
double sum_of(const std::vector<T>& x, int threads = 1) {
  double sum = -1;
  sum_of_squares(make_cpu(threads), x.data(), static_cast<std::int64_t>(x.size()), &sum);
  return sum;
}

template <class T>
class SumOfSquares : public ::testing::Test {};
using Types = ::testing::Types<float, double>;
TYPED_TEST_SUITE(SumOfSquares, Types);

// 1 + 4 + ... + n^2 = n (n + 1) (2n + 1) / 6, exact in float64 for these n.
TYPED_TEST(SumOfSquares, OfTheFirstIntegers) {
  for (const std::int64_t n : {0, 1, 2, 31, 32, 33, 1000, 32769, 65535, 65537, 131071}) {
    std::vector<TypeParam> x;
    for (std::int64_t i = 1; i <= n; ++i) x.push_back(static_cast<TypeParam>(i % 2 == 0 ? i : -i));
    const auto m = static_cast<double>(n);
    EXPECT_EQ(sum_of(x), m * (m + 1) * (2 * m + 1) / 6) << n;
  }
}

TYPED_TEST(SumOfSquares, IsBitEqualForAnyNumberOfThreads) {
  std::vector<TypeParam> x;
  for (int i = 0; i < 300'007; ++i) x.push_back(static_cast<TypeParam>(std::sin(i) * 1e3));
  const double one = sum_of(x, 1);
  for (const int threads : {2, 3, 5, 8}) EXPECT_EQ(sum_of(x, threads), one) << threads;
}

// 3 * 4097^2 = 50,356,227 has no float32, and 1e60 is beyond its range.
TYPED_TEST(SumOfSquares, AccumulatesInDouble) {
  EXPECT_EQ(sum_of(std::vector<TypeParam>(3, TypeParam(4097))), 50'356'227.0);
  EXPECT_NEAR(sum_of(std::vector<TypeParam>(3, TypeParam(1e30f))) / 3e60, 1.0, 1e-6);
}

TYPED_TEST(SumOfSquares, ShowsValuesThatAreNotFinite) {
  for (const std::size_t at : {0UL, 31UL, 32UL, 98UL, 99UL}) {
    std::vector<TypeParam> x(100, TypeParam(1));
    for (const TypeParam bad : {std::numeric_limits<TypeParam>::infinity(), -std::numeric_limits<TypeParam>::infinity(),
                                std::numeric_limits<TypeParam>::quiet_NaN()}) {
      x[at] = bad;
      EXPECT_FALSE(std::isfinite(sum_of(x))) << at;
    }
  }
  EXPECT_TRUE(std::isfinite(sum_of(std::vector<float>(100, std::numeric_limits<float>::max()))));
}

// The first n integers less the n after them: n squares of n; and their sum, n (n + 1) / 2.
TYPED_TEST(SumOfSquares, TheOtherSumsGoTheSameWay) {
  for (const std::int64_t n : {0, 1, 31, 33, 1000, 65537}) {
    std::vector<TypeParam> x, y;
    for (std::int64_t i = 1; i <= n; ++i) {
      x.push_back(static_cast<TypeParam>(i));
      y.push_back(static_cast<TypeParam>(i + n));
    }
    const auto m = static_cast<double>(n);
    for (const int threads : {1, 3}) {
      double total = -1, differences = -1;
      sum(make_cpu(threads), x.data(), n, &total);
      sum_of_squared_differences(make_cpu(threads), x.data(), y.data(), n, &differences);
      EXPECT_EQ(total, m * (m + 1) / 2) << n;
      EXPECT_EQ(differences, m * m * m) << n;
    }
  }
}

// bfloat16 values are exact in float64, and summed in the same order: so are their sums.
TEST(SumOfSquaresOfBfloat16, IsThatOfItsValues) {
  for (const std::int64_t n : {0, 1, 33, 100'003}) {
    const auto x = limbeck::testing::random_bf16(n, 1), y = limbeck::testing::random_bf16(n, 2);
    const auto x64 = limbeck::testing::all_as<double>(x), y64 = limbeck::testing::all_as<double>(y);
    double of_bf16 = -1, of_double = -2;
    sum(make_cpu(2), x.data(), n, &of_bf16);
    sum(make_cpu(1), x64.data(), n, &of_double);
    EXPECT_EQ(of_bf16, of_double) << n;
    EXPECT_EQ(sum_of(x), sum_of(x64)) << n;
    sum_of_squared_differences(make_cpu(1), x.data(), y.data(), n, &of_bf16);
    sum_of_squared_differences(make_cpu(1), x64.data(), y64.data(), n, &of_double);
    EXPECT_EQ(of_bf16, of_double) << n;
  }
  EXPECT_FALSE(std::isfinite(sum_of(std::vector<bf16>(40, bf16(INFINITY)))));
}

}  // namespace
}  // namespace limbeck::kernels
