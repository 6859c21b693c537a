#include "kernels/rope.h"

#include <cmath>
#include <vector>

#include "tests/support/bf16_values.h"

namespace limbeck::kernels {
namespace {

using limbeck::testing::all_as, limbeck::testing::expect_rounded, limbeck::testing::random_bf16;

TEST(RopeKernel, OfBfloat16TurnsByAFloatTableAndRoundsOnce) {
  constexpr std::int64_t tokens = 5, positions = 700;
  const std::vector<std::int32_t> position{0, 3, 699, 3, 250};
  for (const auto& [heads, width] : {std::pair{1, 2}, std::pair{3, 14}, std::pair{2, 66}}) {
    const std::int64_t half = width / 2;
    std::vector<float> cos(positions * half), sin = cos;
    std::vector<double> cos64(positions * half), sin64 = cos64;
    std::vector<double> frequencies;
    for (std::int64_t i = 0; i < half; ++i) frequencies.push_back(std::pow(0.9, i));
    rope_table(make_cpu(1), cos.data(), sin.data(), positions, half, frequencies.data(), 1.);
    rope_table(make_cpu(1), cos64.data(), sin64.data(), positions, half, frequencies.data(), 1.);
    const auto x = random_bf16(tokens * heads * width, 1);
    for (const int direction : {1, -1}) {
      std::vector<bf16> q = x, k(x.rbegin(), x.rend());
      std::vector<double> q64 = all_as<double>(q), k64 = all_as<double>(k);
      rope(make_cpu(2), RopeHeads<bf16>{q.data(), heads}, RopeHeads<bf16>{k.data(), heads}, position.data(), cos.data(),
           sin.data(), direction, tokens, width);
      rope(make_cpu(1), RopeHeads<double>{q64.data(), heads}, RopeHeads<double>{k64.data(), heads}, position.data(),
           cos64.data(), sin64.data(), direction, tokens, width);
      expect_rounded(q, q64, 2e-6);
      expect_rounded(k, k64, 2e-6);
    }
  }
}

TEST(RopeKernel, ATableIsOfAnglesAndAFactor) {
  const std::vector<double> frequencies{0.5, 0.01, 3};
  std::vector<double> cos(6), sin(6);
  rope_table(make_cpu(2), cos.data(), sin.data(), 2, 3, frequencies.data(), 1.25);
  for (std::size_t i = 0; i < 3; ++i) {
    EXPECT_EQ(cos[i], 1.25);
    EXPECT_EQ(sin[i], 0);
    EXPECT_DOUBLE_EQ(cos[3 + i], 1.25 * std::cos(frequencies[i]));
    EXPECT_DOUBLE_EQ(sin[3 + i], 1.25 * std::sin(frequencies[i]));
  }
}

}  // namespace
}  // namespace limbeck::kernels
