#include "kernels/cosine.h"

#include "tests/support/bf16_values.h"

namespace limbeck::kernels {
namespace {

using limbeck::testing::all_as, limbeck::testing::random_bf16;

TEST(CosineKernel, OfBfloat16IsThatOfItsValues) {
  for (const std::int64_t width : {1, 7, 129}) {
    const auto x = random_bf16(3 * width, 1), y = random_bf16(3 * width, 2);
    std::vector<double> distance(3), expected(3);
    cosine_distance(make_cpu(1), x.data(), y.data(), distance.data(), 3, width);
    cosine_distance(make_cpu(1), all_as<double>(x).data(), all_as<double>(y).data(), expected.data(), 3, width);
    for (std::size_t i = 0; i < 3; ++i) EXPECT_NEAR(distance[i], expected[i], 1e-13);
  }
}

}  // namespace
}  // namespace limbeck::kernels
