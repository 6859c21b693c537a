#include "kernels/block8.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>
#include <random>

#include "tests/support/teacher_file.h"

namespace limbeck::kernels {
namespace {

nlohmann::json golden() {
  std::ifstream file(limbeck::testing::golden_path("optim/eight_bit.json"));
  return nlohmann::json::parse(file);
}

struct Coded {
  std::vector<std::uint8_t> codes;
  std::vector<float> scales;
};

Coded encode(Block8Map map, const std::vector<float>& x, int threads = 1) {
  const auto n = static_cast<std::int64_t>(x.size());
  Coded coded{std::vector<std::uint8_t>(x.size(), 77), std::vector<float>(static_cast<std::size_t>(block8_count(n)))};
  block8_encode(make_cpu(threads), map, x.data(), n, {coded.codes.data(), coded.scales.data()});
  return coded;
}

std::vector<float> decode(Block8Map map, Coded coded, int threads = 1) {
  std::vector<float> x(coded.codes.size());
  block8_decode(make_cpu(threads), map, {coded.codes.data(), coded.scales.data()},
                static_cast<std::int64_t>(coded.codes.size()), x.data());
  return x;
}

TEST(Block8, FractionsAreThoseOfBitsandbytes) {
  const auto expected = golden()["maps"];
  for (const auto& [name, map] : {std::pair("signed", Block8Map::Signed), std::pair("unsigned", Block8Map::Unsigned)}) {
    const auto& fractions = block8_fractions(map);
    EXPECT_TRUE(std::is_sorted(fractions.begin(), fractions.end()));
    for (std::size_t i = 0; i < 256; ++i) {
      const double value = expected[name][i];
      EXPECT_NEAR(fractions[i], value, 2e-7 * std::abs(value)) << name << ' ' << i;
    }
  }
}

// On both sides of every midpoint, by the smallest step a float can make; a tie goes to the lower code.
TEST(Block8, CodesChangeAtTheMidpoints) {
  for (const Block8Map map : {Block8Map::Signed, Block8Map::Unsigned}) {
    const auto& fractions = block8_fractions(map);
    for (std::size_t i = 0; i < 255; ++i) {
      const float middle = (fractions[i] + fractions[i + 1]) / 2;
      const Coded coded = encode(map, {1, std::nextafter(middle, -2.F), middle, std::nextafter(middle, 2.F)});
      EXPECT_EQ(coded.codes[1], i);
      EXPECT_EQ(coded.codes[2], i);
      EXPECT_EQ(coded.codes[3], i + 1);
    }
  }
}

TEST(Block8, CodesAreThoseOfBitsandbytes) {
  const auto expected = golden()["coded"];
  for (const auto& [name, map] : {std::pair("signed", Block8Map::Signed), std::pair("unsigned", Block8Map::Unsigned)}) {
    const auto x = expected[name]["values"].get<std::vector<float>>();
    const Coded coded = encode(map, x);
    EXPECT_EQ(coded.scales, expected[name]["scales"].get<std::vector<float>>());
    EXPECT_EQ(coded.codes, expected[name]["codes"].get<std::vector<std::uint8_t>>());
    const std::vector<float> decoded = decode(map, coded);
    for (std::size_t i = 0; i < x.size(); ++i)
      EXPECT_NEAR(decoded[i], expected[name]["decoded"][i].get<float>(), 3e-7F * coded.scales[i / 256]);
  }
}

// Half of the widest gap: of the largest exponent's 64 or 128 parts, and between -1 and the second one half more.
TEST(Block8, ErrorsAreAtMostThoseOfTheWidestGap) {
  const auto error_of = [](Block8Map map, float x) { return std::abs(decode(map, encode(map, {1, x}))[1] - x); };
  for (const Block8Map map : {Block8Map::Signed, Block8Map::Unsigned}) {
    const double widest = map == Block8Map::Signed ? 0.9 / 64 : 0.9 / 128;
    const auto& fractions = block8_fractions(map);
    for (std::size_t i = 0; i < 255; ++i) {
      const float below = fractions[i], above = fractions[i + 1];
      const double most = (map == Block8Map::Signed && i == 0 ? 1.5 : 1) * widest / 2;
      EXPECT_LE(error_of(map, (below + above) / 2), most + 2e-7) << i;
    }
    EXPECT_NEAR(error_of(map, (fractions[250] + fractions[251]) / 2), widest / 2, 2e-7);
  }
  EXPECT_NEAR(error_of(Block8Map::Signed, -0.98945F), 0.0105, 1e-4);
}

TEST(Block8, TheNearestFractionIsTaken) {
  std::mt19937 generator(1);
  std::uniform_real_distribution<float> uniform(-1, 1);
  std::vector<float> x{1};
  while (x.size() < 256) x.push_back(uniform(generator));
  const Coded coded = encode(Block8Map::Signed, x);
  for (std::size_t i = 0; i < x.size(); ++i)
    for (const float other : block8_fractions(Block8Map::Signed))
      EXPECT_LE(std::abs(x[i] - block8_fractions(Block8Map::Signed)[coded.codes[i]]), std::abs(x[i] - other));
}

TEST(Block8, TheGreatestMagnitudeIsExactAndDecodedValuesKeepTheirCodes) {
  std::mt19937 generator(2);
  std::normal_distribution<float> normal;
  for (const std::size_t n : {1U, 2U, 255U, 256U, 257U, 100000U})
    for (const float size : {1e-15F, 1.F, 1e25F}) {
      std::vector<float> x(n), squares(n);
      for (std::size_t i = 0; i < n; ++i) {
        x[i] = size * std::exp(5 * normal(generator)) * normal(generator);
        squares[i] = std::abs(x[i]);
      }
      for (const auto& [map, values] : {std::pair(Block8Map::Signed, x), std::pair(Block8Map::Unsigned, squares)}) {
        const Coded coded = encode(map, values, 2);
        const std::vector<float> decoded = decode(map, coded, 2);
        const Coded again = encode(map, decoded);
        EXPECT_EQ(again.codes, coded.codes);
        EXPECT_EQ(again.scales, coded.scales);
        EXPECT_EQ(decode(map, again), decoded);
        for (std::size_t begin = 0; begin < n; begin += 256) {
          const auto last = values.begin() + static_cast<std::ptrdiff_t>(std::min(n, begin + 256));
          const auto greatest = std::max_element(values.begin() + static_cast<std::ptrdiff_t>(begin), last,
                                                 [](float a, float b) { return std::abs(a) < std::abs(b); });
          EXPECT_EQ(decoded[static_cast<std::size_t>(greatest - values.begin())], *greatest);
        }
      }
    }
}

TEST(Block8, BlocksOfNothingStayNothing) {
  EXPECT_EQ(block8_count(0), 0);
  EXPECT_EQ(block8_count(256), 1);
  EXPECT_EQ(block8_count(257), 2);
  EXPECT_TRUE(encode(Block8Map::Signed, {}).codes.empty());
  for (const float tiny : {0.F, 1e-40F, -1e-31F}) {
    const Coded coded = encode(Block8Map::Signed, std::vector<float>(300, tiny));
    EXPECT_EQ(coded.scales, (std::vector<float>{0, 0}));
    for (const float x : decode(Block8Map::Signed, coded)) EXPECT_EQ(x, 0);
  }
  const std::vector<float> mixed = decode(Block8Map::Unsigned, encode(Block8Map::Unsigned, {0, 1e-9F, 2}));
  EXPECT_EQ(mixed, (std::vector<float>{0, 0, 2}));  // 5e-10 of the scale: nearer to 0 than to 3.3e-7
}

}  // namespace
}  // namespace limbeck::kernels
