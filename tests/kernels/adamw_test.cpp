#include "kernels/adamw.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <vector>

namespace limbeck::kernels {
namespace {

template <class T>
struct Run {
  std::vector<T> dx, x, mean, mean_square;
};

template <class T>
Run<T> random_run(std::int64_t n) {
  std::mt19937 generator(7);
  std::normal_distribution<double> normal;
  Run<T> run;
  for (std::int64_t i = 0; i < n; ++i) {
    run.dx.push_back(static_cast<T>(normal(generator)));
    run.x.push_back(static_cast<T>(normal(generator)));
    run.mean.push_back(static_cast<T>(normal(generator)));
    run.mean_square.push_back(static_cast<T>(std::abs(normal(generator))));
  }
  return run;
}

template <class T>
constexpr AdamWFactors<T> factors{.decay = T(0.99),
                                  .one_minus_beta1 = T(0.1),
                                  .beta2 = T(0.95),
                                  .one_minus_beta2 = T(0.05),
                                  .step_size = T(0.02),
                                  .inverse_root_correction2 = T(1.5),
                                  .eps = T(1e-3)};
constexpr double half = 0.5;

template <class T>
class AdamWKernel : public testing::Test {};
using Types = testing::Types<float, double>;
TYPED_TEST_SUITE(AdamWKernel, Types);

// The formula by hand, on numbers that make it easy: g = 2, mean 1 -> 1.1, mean square 4 -> 4, root 2 * 1.5 = 3.
TYPED_TEST(AdamWKernel, IsTheFormula) {
  using T = TypeParam;
  std::vector<T> dx{4}, x{10}, mean{1}, mean_square{4};
  AdamWFactors<T> f = factors<T>;
  f.eps = T(0.3);
  adamw(make_cpu(1), &f, &half, dx.data(), x.data(), mean.data(), mean_square.data(), 1);
  const double tolerance = sizeof(T) == 4 ? 1e-5 : 1e-13;
  EXPECT_NEAR(mean[0], 1.1, tolerance);
  EXPECT_NEAR(mean_square[0], 4.0, tolerance);
  EXPECT_NEAR(x[0], 9.9 - 0.02 * 1.1 / 3.3, tolerance);
  EXPECT_EQ(dx[0], T(4));
}

TYPED_TEST(AdamWKernel, WithoutGradientIsWithZeroGradient) {
  using T = TypeParam;
  Run<T> a = random_run<T>(37);
  Run<T> b = a;
  const std::vector<T> zeros(37, T(0));
  adamw(make_cpu(1), &factors<T>, &half, zeros.data(), a.x.data(), a.mean.data(), a.mean_square.data(), 37);
  adamw(make_cpu(1), &factors<T>, &half, static_cast<const T*>(nullptr), b.x.data(), b.mean.data(),
        b.mean_square.data(), 37);
  EXPECT_EQ(a.x, b.x);
  EXPECT_EQ(a.mean, b.mean);
  EXPECT_EQ(a.mean_square, b.mean_square);
  EXPECT_NEAR(a.mean_square[5], 0.95 * random_run<T>(37).mean_square[5], 1e-6);
}

TYPED_TEST(AdamWKernel, ElementsDoNotDependOnPlaceOrThreads) {
  using T = TypeParam;
  const std::int64_t n = 200'003;
  Run<T> whole = random_run<T>(n);
  Run<T> threaded = whole;
  Run<T> parts = whole;
  adamw(make_cpu(1), &factors<T>, &half, whole.dx.data(), whole.x.data(), whole.mean.data(), whole.mean_square.data(),
        n);
  adamw(make_cpu(3), &factors<T>, &half, threaded.dx.data(), threaded.x.data(), threaded.mean.data(),
        threaded.mean_square.data(), n);
  for (std::int64_t at = 0, length = 1; at < n; at += length, length = 2 * length + 1) {
    length = std::min(length, n - at);
    adamw(make_cpu(1), &factors<T>, &half, parts.dx.data() + at, parts.x.data() + at, parts.mean.data() + at,
          parts.mean_square.data() + at, length);
  }
  EXPECT_EQ(whole.x, threaded.x);
  EXPECT_EQ(whole.mean_square, threaded.mean_square);
  EXPECT_EQ(whole.x, parts.x);
  EXPECT_EQ(whole.mean, parts.mean);
  EXPECT_EQ(whole.mean_square, parts.mean_square);
}

TYPED_TEST(AdamWKernel, ANotFiniteScaleChangesNothing) {
  using T = TypeParam;
  Run<T> run = random_run<T>(37);
  const Run<T> before = run;
  const double scale = std::numeric_limits<double>::quiet_NaN();
  adamw(make_cpu(1), &factors<T>, &scale, run.dx.data(), run.x.data(), run.mean.data(), run.mean_square.data(), 37);
  EXPECT_EQ(run.x, before.x);
  EXPECT_EQ(run.mean, before.mean);
  EXPECT_EQ(run.mean_square, before.mean_square);
}

TYPED_TEST(AdamWKernel, WritesTheResultRoundedToo) {
  using T = TypeParam;
  for (const std::int64_t n : {1, 1023, 70'001}) {
    Run<T> run = random_run<T>(n), plain = run;
    std::vector<bf16> rounded(n);
    adamw(make_cpu(2), &factors<T>, &half, run.dx.data(), run.x.data(), run.mean.data(), run.mean_square.data(), n,
          rounded.data());
    adamw(make_cpu(2), &factors<T>, &half, plain.dx.data(), plain.x.data(), plain.mean.data(), plain.mean_square.data(),
          n);
    EXPECT_EQ(run.x, plain.x);
    for (std::int64_t i = 0; i < n; ++i) ASSERT_EQ(rounded[i].bits, as<bf16>(plain.x[i]).bits) << i << " of " << n;
  }
}

TYPED_TEST(AdamWKernel, Empty) {
  TypeParam* const nothing = nullptr;
  adamw(make_cpu(2), &factors<TypeParam>, nullptr, static_cast<const TypeParam*>(nothing), nothing, nothing, nothing,
        0);
}

}  // namespace
}  // namespace limbeck::kernels
