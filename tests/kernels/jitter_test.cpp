#include "kernels/jitter.h"

#include "tests/support/bf16_values.h"

namespace limbeck::kernels {
namespace {

using limbeck::testing::all_as, limbeck::testing::expect_rounded, limbeck::testing::random_bf16;

// A factor rounded to bfloat16 first would lose most of noise of 1 %.
TEST(JitterKernel, OfBfloat16RoundsOnce) {
  constexpr std::int64_t rows = 5, width = 33;
  const std::vector<std::int64_t> index{4, 0, 7, 100, 2};
  const PhiloxStream stream{{1, 2}, 3};
  const auto x = random_bf16(rows * width, 1);
  const auto wide = all_as<double>(x);
  std::vector<bf16> y(x.size());
  std::vector<double> expected(x.size());
  jitter(make_cpu(1), x.data(), index.data(), y.data(), rows, width, 0.01, stream);
  jitter(make_cpu(1), wide.data(), index.data(), expected.data(), rows, width, 0.01, stream);
  expect_rounded(y, expected, 1e-6);
}

}  // namespace
}  // namespace limbeck::kernels
