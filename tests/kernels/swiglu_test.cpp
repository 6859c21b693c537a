#include "kernels/swiglu.h"

#include "tests/support/bf16_values.h"

namespace limbeck::kernels {
namespace {

using limbeck::testing::all_as, limbeck::testing::expect_rounded, limbeck::testing::random_bf16;

TEST(Swiglu, OfBfloat16IsThatOfDoubleRoundedOnce) {
  for (const std::int64_t n : {1, 7, 33, 10'001}) {
    const auto gate = random_bf16(n, 1, 3), up = random_bf16(n, 2), dy = random_bf16(n, 3);
    const auto gate64 = all_as<double>(gate), up64 = all_as<double>(up), dy64 = all_as<double>(dy);
    std::vector<bf16> y(gate.size()), dgate = y, dup = y;
    std::vector<double> y64(gate.size()), dgate64 = y64, dup64 = y64;
    swiglu(make_cpu(2), gate.data(), up.data(), y.data(), n);
    swiglu(make_cpu(1), gate64.data(), up64.data(), y64.data(), n);
    swiglu_gradient(make_cpu(2), gate.data(), up.data(), dy.data(), dgate.data(), dup.data(), n);
    swiglu_gradient(make_cpu(1), gate64.data(), up64.data(), dy64.data(), dgate64.data(), dup64.data(), n);
    constexpr double slack = 1e-5;  // float32 of values up to 50
    expect_rounded(y, y64, slack);
    expect_rounded(dgate, dgate64, slack);
    expect_rounded(dup, dup64, slack);
  }
}

TEST(Swiglu, OfBfloat16AtTheEnds) {
  std::vector<bf16> gate, up(3, bf16(1.F)), y(3);
  for (const float g : {-3e38F, 3e38F, -INFINITY}) gate.emplace_back(g);
  swiglu(make_cpu(1), gate.data(), up.data(), y.data(), 3);
  EXPECT_EQ(as<float>(y[0]), 0);
  EXPECT_EQ(y[1].bits, gate[1].bits);
  EXPECT_TRUE(std::isnan(as<float>(y[2])));
}

}  // namespace
}  // namespace limbeck::kernels
