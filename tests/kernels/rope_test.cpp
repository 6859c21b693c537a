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

// What turns of a wider head is what a narrow one turns to; the other channels stay.
TEST(RopeKernel, TheFirstChannelsOfAHeadMayTurnAlone) {
  constexpr std::int64_t tokens = 3, heads = 2, width = 10, turning = 6;
  const std::vector<std::int32_t> row{2, 0, 1};
  std::vector<double> cos(9), sin(9);
  const std::vector<double> frequencies{1, 0.3, 0.02};
  rope_table(make_cpu(1), cos.data(), sin.data(), 3, 3, frequencies.data(), 1.5);
  std::vector<double> wide(tokens * heads * width), narrow;
  for (std::size_t i = 0; i < wide.size(); ++i) {
    wide[i] = std::sin(static_cast<double>(i));
    if (i % width < turning) narrow.push_back(wide[i]);
  }
  const std::vector<double> before = wide;
  rope(make_cpu(2), RopeHeads<double>{wide.data(), heads, width}, RopeHeads<double>{}, row.data(), cos.data(),
       sin.data(), 1, tokens, turning);
  rope(make_cpu(1), RopeHeads<double>{narrow.data(), heads}, RopeHeads<double>{}, row.data(), cos.data(), sin.data(), 1,
       tokens, turning);
  for (std::size_t i = 0; i < wide.size(); ++i)
    EXPECT_EQ(wide[i], i % width < turning ? narrow[i / width * turning + i % width] : before[i]);
}

TEST(RopeKernel, RowsAreOfTheSecondTableInLongContexts) {
  const std::vector<std::int32_t> position{0, 1, 4, 0, 9}, context{5, 5, 5, 10, 11};
  std::vector<std::int32_t> row(5);
  rope_rows(make_cpu(1), position.data(), context.data(), 5, 100, row.data(), 5);
  EXPECT_EQ(row, (std::vector<std::int32_t>{0, 1, 4, 100, 109}));
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
