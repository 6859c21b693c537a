#include "kernels/swiglu.h"

#include "tests/support/bf16_values.h"

namespace limbeck::kernels {
namespace {

using limbeck::testing::all_as, limbeck::testing::expect_rounded, limbeck::testing::random_bf16;

constexpr Activation all_activations[] = {Activation::Silu, Activation::GeluTanh, Activation::Gelu};
constexpr double limit = 1.25;  // of ClampedSwish; a number that bfloat16 holds

/// Against the float64 kernels.
template <class T>
void compare(std::int64_t n, Activation activation) {
  const double own = activation == Activation::ClampedSwish ? limit : 0;
  const auto gate = all_as<T>(random_bf16(n, 1, 3)), up = all_as<T>(random_bf16(n, 2)),
             dy = all_as<T>(random_bf16(n, 3));
  const auto gate64 = all_as<double>(gate), up64 = all_as<double>(up), dy64 = all_as<double>(dy);
  std::vector<T> y(gate.size()), dgate = y, dup = y;
  std::vector<double> y64(gate.size()), dgate64 = y64, dup64 = y64;
  constexpr double slack = 1e-5;  // float32 of values up to 50
  swiglu(make_cpu(2), gate.data(), up.data(), y.data(), n, activation, own);
  swiglu(make_cpu(1), gate64.data(), up64.data(), y64.data(), n, activation, own);
  swiglu_gradient(make_cpu(2), gate.data(), up.data(), dy.data(), dgate.data(), dup.data(), n, activation, own);
  swiglu_gradient(make_cpu(1), gate64.data(), up64.data(), dy64.data(), dgate64.data(), dup64.data(), n, activation,
                  own);
  expect_rounded(y, y64, slack);
  expect_rounded(dgate, dgate64, slack);
  expect_rounded(dup, dup64, slack);
  if (own > 0) return;
  // The same without a gate.
  activate(make_cpu(2), gate.data(), y.data(), n, activation);
  activate(make_cpu(1), gate64.data(), y64.data(), n, activation);
  activate_gradient(make_cpu(2), gate.data(), dy.data(), dgate.data(), n, activation);
  activate_gradient(make_cpu(1), gate64.data(), dy64.data(), dgate64.data(), n, activation);
  expect_rounded(y, y64, slack);
  expect_rounded(dgate, dgate64, slack);
}

TEST(Swiglu, IsThatOfDoubleRoundedOnce) {
  for (const Activation activation :
       {Activation::Silu, Activation::GeluTanh, Activation::Gelu, Activation::ClampedSwish})
    for (const std::int64_t n : {1, 7, 33, 10'001}) {
      compare<bf16>(n, activation);
      compare<float>(n, activation);
    }
}

// Values and slopes of 0 and 1 far from 0, where powers of what is far overflow; the infinite negative end is 0 times
// infinity.
TEST(Swiglu, AtTheEnds) {
  for (const Activation activation : all_activations) {
    const auto check = [&]<class T>(T, const std::vector<double>& far) {
      for (const double g : far) {
        const T ends[] = {as<T>(-g), as<T>(g)}, ones[] = {as<T>(1.0), as<T>(1.0)};
        T y[2], dgate[2], dup[2];
        swiglu(make_cpu(1), ends, ones, y, 2, activation);
        swiglu_gradient(make_cpu(1), ends, ones, ones, dgate, dup, 2, activation);
        EXPECT_EQ(as<double>(y[0]), 0);
        EXPECT_EQ(as<double>(y[1]), as<double>(ends[1]));
        EXPECT_EQ(as<double>(dgate[0]), 0);
        EXPECT_EQ(as<double>(dgate[1]), 1);
        EXPECT_EQ(as<double>(dup[0]), 0);
        EXPECT_EQ(as<double>(dup[1]), as<double>(ends[1]));
      }
    };
    check(bf16(), {1000, 3e38});
    check(0.F, {1000, 1e20, 3e38});
    check(0.0, {1000, 1e160, 1e300});
    const bf16 negative[] = {as<bf16>(-INFINITY)}, one[] = {as<bf16>(1.F)};
    bf16 y[1];
    swiglu(make_cpu(1), negative, one, y, 1, activation);
    EXPECT_TRUE(std::isnan(as<float>(y[0])));
  }
}

TEST(Swiglu, ClampedAtTheEnds) {
  const auto check = [&]<class T>(T, double far) {
    const T gate[] = {as<T>(-far), as<T>(far)}, up[] = {as<T>(far), as<T>(-far)}, ones[] = {as<T>(1.0), as<T>(1.0)};
    T y[2], dgate[2], dup[2];
    swiglu(make_cpu(1), gate, up, y, 2, Activation::ClampedSwish, limit);
    swiglu_gradient(make_cpu(1), gate, up, ones, dgate, dup, 2, Activation::ClampedSwish, limit);
    const double greatest = limit / (1 + std::exp(-1.702 * limit)) * (1 - limit);
    EXPECT_EQ(as<double>(y[0]), 0);
    EXPECT_NEAR(as<double>(y[1]), greatest, 0.01);
    for (int i = 0; i < 2; ++i) {
      EXPECT_EQ(as<double>(dgate[i]), 0);
      EXPECT_EQ(as<double>(dup[i]), 0);
    }
  };
  check(bf16(), 3e38);
  check(0.F, 3e38);
  check(0.0, 1e300);
}

TEST(Swiglu, WhatIsNotANumberStaysSo) {
  for (const Activation activation :
       {Activation::Silu, Activation::GeluTanh, Activation::Gelu, Activation::ClampedSwish}) {
    const double own = activation == Activation::ClampedSwish ? limit : 0;
    const float nan[] = {NAN}, one[] = {1};
    float y[1], dgate[1], dup[1];
    swiglu(make_cpu(1), nan, one, y, 1, activation, own);
    swiglu_gradient(make_cpu(1), nan, one, one, dgate, dup, 1, activation, own);
    EXPECT_TRUE(std::isnan(y[0]));
    EXPECT_TRUE(std::isnan(dgate[0]));
    EXPECT_TRUE(std::isnan(dup[0]));
  }
}

}  // namespace
}  // namespace limbeck::kernels
