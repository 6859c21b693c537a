#include "kernels/convert.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

namespace limbeck::kernels {
namespace {

template <class To, class From>
std::vector<To> converted(const std::vector<From>& x, int threads = 1) {
  std::vector<To> y(x.size());
  convert(make_cpu(threads), x.data(), y.data(), static_cast<std::int64_t>(x.size()));
  return y;
}

std::vector<bf16> every_bf16() {
  std::vector<bf16> x(1 << 16);
  for (std::size_t i = 0; i < x.size(); ++i) x[i].bits = static_cast<std::uint16_t>(i);
  return x;
}

bool is_nan(bf16 x) { return (x.bits & 0x7fffU) > 0x7f80U; }

/// By the definition: a sign, 8 bits of exponent, 7 of fraction.
double value_of(std::uint32_t bits) {
  const int exponent = static_cast<int>(bits >> 7U & 0xffU);
  const int fraction = static_cast<int>(bits & 0x7fU);
  const double size = exponent == 255 ? std::numeric_limits<double>::infinity()
                      : exponent == 0 ? std::ldexp(fraction, -133)
                                      : std::ldexp(128 + fraction, exponent - 134);
  return (bits & 0x8000U) != 0 ? -size : size;
}

TEST(Convert, EveryBfloat16GoesToFloatAndDoubleAndBack) {
  const std::vector<bf16> x = every_bf16();
  const auto narrow = converted<float>(x);
  const auto wide = converted<double>(x);
  const auto from_narrow = converted<bf16>(narrow);
  const auto from_wide = converted<bf16>(wide);
  const auto same = converted<bf16>(x);
  for (std::size_t i = 0; i < x.size(); ++i) {
    EXPECT_EQ(same[i].bits, x[i].bits);
    if (is_nan(x[i])) {
      EXPECT_TRUE(std::isnan(narrow[i]) && std::isnan(wide[i]) && is_nan(from_narrow[i]) && is_nan(from_wide[i])) << i;
      EXPECT_EQ(from_narrow[i].bits, x[i].bits | 0x40U) << "a quiet NaN of the same sign and payload";
      continue;
    }
    ASSERT_EQ(wide[i], value_of(x[i].bits)) << i;
    ASSERT_EQ(narrow[i], static_cast<float>(wide[i])) << i;
    ASSERT_EQ(std::signbit(narrow[i]), i >= 0x8000) << i;
    ASSERT_EQ(from_narrow[i].bits, x[i].bits);
    ASSERT_EQ(from_wide[i].bits, x[i].bits);
  }
}

// Halfway to the next one, and the least step of a float to either side of it. Beyond the largest lies infinity.
TEST(Convert, RoundsToNearestTiesToEven) {
  std::vector<float> x;
  std::vector<unsigned> expected;
  for (const unsigned sign : {0U, 0x8000U})
    for (unsigned bits = 0; bits < 0x7f80U; ++bits) {
      const auto middle = std::bit_cast<float>((sign | bits) << 16U | 0x8000U);
      const float further = sign == 0 ? INFINITY : -INFINITY;
      x.insert(x.end(), {std::nextafter(middle, 0.F), middle, std::nextafter(middle, further)});
      expected.insert(expected.end(), {sign | bits, sign | (bits + bits % 2), sign | (bits + 1)});
    }
  const auto y = converted<bf16>(x);
  const auto of_double = converted<bf16>(converted<double>(x));
  for (std::size_t i = 0; i < x.size(); ++i) {
    ASSERT_EQ(y[i].bits, expected[i]) << x[i];
    ASSERT_EQ(of_double[i].bits, expected[i]) << x[i];
  }
}

TEST(Convert, OfValuesThatAreNotFinite) {
  constexpr float infinity = std::numeric_limits<float>::infinity();
  const float payload_below = std::bit_cast<float>(0x7f800001U);  // its upper half alone is an infinity
  const auto y =
      converted<bf16>(std::vector<float>{infinity, -infinity, payload_below, std::bit_cast<float>(0xffffffffU),
                                         std::numeric_limits<float>::max(), -0.F, 1e-45F});
  EXPECT_EQ(y[0].bits, 0x7f80);
  EXPECT_EQ(y[1].bits, 0xff80);
  EXPECT_TRUE(is_nan(y[2]));
  EXPECT_TRUE(is_nan(y[3]));
  EXPECT_EQ(y[4].bits, 0x7f80);
  EXPECT_EQ(y[5].bits, 0x8000);
  EXPECT_EQ(y[6].bits, 0);
  EXPECT_EQ(converted<float>(std::vector<double>{1e300})[0], infinity);
  EXPECT_EQ(converted<bf16>(std::vector<double>{-1e300})[0].bits, 0xff80);
}

TEST(Convert, AnyLengthAndNumberOfThreads) {
  for (const std::size_t n : {0UL, 1UL, 7UL, 33UL, 100'003UL})
    for (const int threads : {1, 3}) {
      std::vector<double> x(n);
      for (std::size_t i = 0; i < n; ++i) x[i] = std::sin(static_cast<double>(i));
      const auto floats = converted<float>(x, threads);
      const auto y = converted<bf16>(floats, threads);
      for (std::size_t i = 0; i < n; ++i) {
        ASSERT_EQ(floats[i], static_cast<float>(x[i]));
        ASSERT_EQ(y[i].bits, bf16(static_cast<float>(x[i])).bits);
      }
    }
}

}  // namespace
}  // namespace limbeck::kernels
