#include "kernels/rope.h"

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
    rope_table(make_cpu(1), cos.data(), sin.data(), positions, width, 10000.);
    rope_table(make_cpu(1), cos64.data(), sin64.data(), positions, width, 10000.);
    const auto x = random_bf16(tokens * heads * width, 1);
    for (const int direction : {1, -1}) {
      std::vector<bf16> y(x.size());
      std::vector<double> expected(x.size());
      rope(make_cpu(1), x.data(), position.data(), cos.data(), sin.data(), direction, y.data(), tokens, heads, width);
      rope(make_cpu(1), all_as<double>(x).data(), position.data(), cos64.data(), sin64.data(), direction,
           expected.data(), tokens, heads, width);
      expect_rounded(y, expected, 2e-6);
    }
  }
}

}  // namespace
}  // namespace limbeck::kernels
