#include "kernels/draw_tokens.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

namespace limbeck::kernels {
namespace {

constexpr double inf = std::numeric_limits<double>::infinity();

/// By the definition: the sums of the probabilities before and behind a token, likeliest first.
template <class T>
std::pair<double, double> sums_around(const std::vector<T>& row, double temperature, std::int32_t token) {
  std::vector<std::size_t> order(row.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::ranges::stable_sort(order, [&](std::size_t a, std::size_t b) { return row[a] > row[b]; });
  double all = 0, sum = 0;
  const auto weight = [&](std::size_t i) {
    return std::exp((static_cast<double>(row[i]) - row[order[0]]) / temperature);
  };
  for (std::size_t i = 0; i < row.size(); ++i) all += weight(i);
  for (const std::size_t i : order) {
    const double before = sum;
    sum += weight(i);
    if (static_cast<std::int32_t>(i) == token) return {before / all, sum / all};
  }
  return {inf, -inf};
}

template <class T>
class DrawTokens : public ::testing::Test {
 protected:
  static std::vector<std::int32_t> draw(const std::vector<T>& logits, std::int64_t rows, std::int64_t count,
                                        double temperature, const std::vector<double>& chances, int threads = 1) {
    std::vector<std::int32_t> tokens(static_cast<std::size_t>(rows), -7);
    draw_tokens(make_cpu(threads), logits.data(), rows, std::ssize(logits) / rows, count, temperature, chances.data(),
                tokens.data());
    return tokens;
  }
};
using Types = ::testing::Types<float, double>;
TYPED_TEST_SUITE(DrawTokens, Types);

TYPED_TEST(DrawTokens, TakesTheTokenAtWhichTheSumPassesTheChance) {
  constexpr double tolerance = std::is_same_v<TypeParam, float> ? 2e-6 : 1e-12;
  for (const int count : {1, 2, 7, 1024, 3001})
    for (const double temperature : {0.3, 1.0, 20.0}) {
      std::vector<TypeParam> row;
      for (int i = 0; i < count; ++i)
        row.push_back(i % 11 == 5 ? -static_cast<TypeParam>(inf)
                                  : static_cast<TypeParam>(3 * std::sin(i * i * 0.37) + i % 7));
      row[0] = 1;
      for (const double chance : {0.0, 0.1, 0.5, 0.9, 0.99, 0.9999, 1 - 1e-9}) {
        const std::int32_t token = TestFixture::draw(row, 1, count, temperature, {chance})[0];
        const auto [before, behind] = sums_around(row, temperature, token);
        EXPECT_LE(before, chance + tolerance) << count << ' ' << temperature << ' ' << chance;
        EXPECT_GE(behind, chance - tolerance) << count << ' ' << temperature << ' ' << chance;
        EXPECT_GT(behind, before) << "a token of no probability";
      }
    }
}

TYPED_TEST(DrawTokens, OfEqualOnesTheFirstComesFirst) {
  const std::vector<TypeParam> row(8, 2);
  for (int i = 0; i < 8; ++i) EXPECT_EQ(TestFixture::draw(row, 1, 8, 1, {(i + 0.5) / 8})[0], i);
  EXPECT_EQ(TestFixture::draw({1, 4, 2, 4}, 1, 4, 0, {0.9})[0], 1);
}

TYPED_TEST(DrawTokens, RowsAreEachForThemselvesOnAnyThreads) {
  constexpr int rows = 9, width = 5000, count = 4990;
  std::vector<TypeParam> logits;
  std::vector<double> chances;
  for (int i = 0; i < rows * width; ++i)  // what is behind counts for nothing
    logits.push_back(i % width >= count ? 90 : static_cast<TypeParam>(std::sin(i * 0.7) * 2));
  for (int t = 0; t < rows; ++t) chances.push_back((t + 0.3) / rows);
  const std::vector<std::int32_t> together = TestFixture::draw(logits, rows, count, 0.8, chances);
  EXPECT_EQ(TestFixture::draw(logits, rows, count, 0.8, chances, 3), together);
  for (std::size_t t = 0; t < rows; ++t) {
    const std::vector<TypeParam> row(logits.begin() + static_cast<std::ptrdiff_t>(t * width),
                                     logits.begin() + static_cast<std::ptrdiff_t>(t * width + count));
    EXPECT_EQ(TestFixture::draw(row, 1, count, 0.8, {chances[t]})[0], together[t]) << t;
    EXPECT_LT(together[t], count);
  }
}

TYPED_TEST(DrawTokens, LogitsWithoutAMaximumGiveNone) {
  const auto nan = static_cast<TypeParam>(std::nan("")), infinity = static_cast<TypeParam>(inf);
  for (const double temperature : {0.0, 1.0}) {
    for (const std::vector<TypeParam>& row :
         {std::vector<TypeParam>{nan, 1}, {1, nan}, {1, infinity}, {-infinity, -infinity}})
      EXPECT_EQ(TestFixture::draw(row, 1, 2, temperature, {0.5})[0], -1);
    EXPECT_EQ(TestFixture::draw({1, nan}, 1, 1, temperature, {0.5})[0], 0);
    EXPECT_EQ(TestFixture::draw({-infinity, -5, -infinity}, 1, 3, temperature, {0.5})[0], 1);
    EXPECT_EQ(TestFixture::draw({1}, 1, 0, temperature, {0.5})[0], -1);
  }
}

}  // namespace
}  // namespace limbeck::kernels
