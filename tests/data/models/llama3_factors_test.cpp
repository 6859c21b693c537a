#include "data/models/llama3_factors.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <numbers>
#include <string>
#include <vector>

#include "core/nn/rope_scaling.h"

namespace limbeck::data {
namespace {

using Scaling = nn::RopeScaling;

struct Numbers {
  double factor, low, high;
  std::int64_t positions;
};

std::vector<double> frequencies_of(std::int64_t width, double base) {
  std::vector<double> all;
  for (std::int64_t i = 0; i < width / 2; ++i)
    all.push_back(std::pow(base, -2 * static_cast<double>(i) / static_cast<double>(width)));
  return all;
}

/// As transformers' _compute_llama3_parameters has it, by wavelengths; stored as llama.cpp's converter does.
std::vector<float> factors_of(const std::vector<double>& frequencies, const Numbers& n) {
  const auto old = static_cast<double>(n.positions);
  std::vector<float> factors;
  for (const double f : frequencies) {
    const double wavelength = 2 * std::numbers::pi / f;
    if (wavelength < old / n.high) {
      factors.push_back(1);
    } else if (wavelength > old / n.low) {
      factors.push_back(static_cast<float>(n.factor));
    } else {
      const double smooth = (old / wavelength - n.low) / (n.high - n.low);
      factors.push_back(static_cast<float>(1 / ((1 - smooth) / n.factor + smooth)));
    }
  }
  return factors;
}

TEST(Llama3Factors, GiveBackWhatTheyAreMadeOf) {
  for (const auto& [width, base] : {std::pair(128, 500000.0), std::pair(64, 500000.0), std::pair(64, 10000.0)})
    for (const Numbers& n : {Numbers{8, 1, 4, 8192}, Numbers{32, 1, 4, 8192}, Numbers{8, 1, 4, 4096},
                             Numbers{2.5, 1, 6, 1000}, Numbers{40, 1, 32, 32768}}) {
      const std::vector<double> frequencies = frequencies_of(width, base);
      const auto found = fit_llama3(frequencies, factors_of(frequencies, n));
      ASSERT_TRUE(found) << width << " " << base << " " << n.factor;
      EXPECT_EQ(found->kind, Scaling::Kind::Llama3);
      EXPECT_EQ(found->factor, n.factor);
      EXPECT_EQ(found->original_positions, n.positions) << width << " " << base << " " << n.factor;
      EXPECT_EQ(found->low_frequency_factor, n.low);
      EXPECT_EQ(found->high_frequency_factor, n.high);
    }
}

// A scaling is not told by its factors alone: what is found gives them.
TEST(Llama3Factors, GiveScalingsThatGiveThem) {
  for (const auto& [width, base] :
       {std::pair(128, 500000.0), std::pair(16, 500000.0), std::pair(8, 30.0), std::pair(4, 20.0), std::pair(2, 10.0)})
    for (const Numbers& n :
         {Numbers{5, 0.5, 1.5, 10}, Numbers{4, 0.3, 0.7, 9}, Numbers{16, 2, 7.3, 5000}, Numbers{8, 1, 1.0001, 8192},
          Numbers{3, 0.001, 1000, 777}, Numbers{7, 1, 4, 1}, Numbers{1.01, 1, 4, 8192}}) {
      const std::string what = std::to_string(width) + " " + std::to_string(n.factor);
      const std::vector<double> frequencies = frequencies_of(width, base);
      const std::vector<float> factors = factors_of(frequencies, n);
      const bool is_plain = std::ranges::all_of(factors, [](float x) { return x == 1; });
      const auto found = fit_llama3(frequencies, factors);
      ASSERT_EQ(found.has_value(), !is_plain) << what;
      if (is_plain) continue;
      const std::vector<double> scaled = nn::rope_angles(width, base, *found).frequencies;
      for (std::size_t i = 0; i < factors.size(); ++i)
        EXPECT_NEAR(frequencies[i] / scaled[i], factors[i], 1e-5 * factors[i]) << what << " " << i;
    }
}

TEST(Llama3Factors, OfAllOneNumberAreLinear) {
  const auto found = fit_llama3(frequencies_of(8, 100.0), std::vector<float>(4, 6.0F));
  ASSERT_TRUE(found);
  EXPECT_EQ(found->kind, Scaling::Kind::Linear);
  EXPECT_EQ(found->factor, 6);
}

TEST(Llama3Factors, OfAnotherRuleAreNone) {
  const std::vector<double> frequencies = frequencies_of(16, 10000.0);
  for (const std::vector<float>& factors :
       std::vector<std::vector<float>>{{1, 1, 1, 8, 1, 1, 1, 1},
                                       {1, 1, 1.5F, 2.2F, 3.9F, 4, 4, 4},
                                       {1, 1.1F, 1.2F, 1.3F, 1.4F, 1.5F, 1.6F, 1.7F},
                                       {0.5F, 1, 1, 2, 4, 4, 4, 4},
                                       {4, 4, 4, 4, 1, 1, 1, 1},
                                       {1, 1, 1, 1, 1, 1, 1, 1},
                                       {1, 2, 3, 4}})
    EXPECT_FALSE(fit_llama3(frequencies, factors)) << factors[1];
  // One of Llama 3's that is a thousandth away.
  std::vector<float> factors = factors_of(frequencies_of(64, 500000.0), {8, 1, 4, 8192});
  EXPECT_TRUE(fit_llama3(frequencies_of(64, 500000.0), factors));
  for (float& x : factors)
    if (x > 1 && x < 8) {
      x *= 1.001F;
      break;
    }
  EXPECT_FALSE(fit_llama3(frequencies_of(64, 500000.0), factors));
}

}  // namespace
}  // namespace limbeck::data
