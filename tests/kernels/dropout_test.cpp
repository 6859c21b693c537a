#include "kernels/dropout.h"

#include "tests/support/bf16_values.h"

namespace limbeck::kernels {
namespace {

using limbeck::testing::all_as, limbeck::testing::expect_rounded, limbeck::testing::random_bf16;

TEST(DropoutKernel, OfBfloat16DropsTheSameAndRoundsOnce) {
  constexpr std::int64_t rows = 5, width = 33;
  const std::vector<std::int64_t> index{4, 0, 7, 100, 2};
  const PhiloxStream stream{{1, 2}, 3};
  const auto x = random_bf16(rows * width, 1);
  const auto wide = all_as<double>(x);
  std::vector<bf16> y(x.size());
  std::vector<double> expected(x.size());
  dropout(make_cpu(1), x.data(), index.data(), y.data(), rows, width, 0.3, stream);
  dropout(make_cpu(1), wide.data(), index.data(), expected.data(), rows, width, 0.3, stream);
  expect_rounded(y, expected, 1e-6);
  for (std::size_t i = 0; i < y.size(); ++i) EXPECT_EQ(as<double>(y[i]) == 0, expected[i] == 0);
}

}  // namespace
}  // namespace limbeck::kernels
