#include "kernels/permute.h"

#include "tests/support/bf16_values.h"

namespace limbeck::kernels {
namespace {

using limbeck::testing::all_as, limbeck::testing::expect_rounded, limbeck::testing::random_bf16;

// Five tokens with three choices of four experts each; two assignments were dropped, and token 3 has none left.
constexpr std::int64_t tokens = 5, selected = 3, experts = 4, rows = 11;
const std::vector<std::int32_t> selection{0, 3, 1, 2, 0, -1, 3, 2, 1, -1, -1, -1, 1, 0, 3};

class PermuteKernel : public ::testing::TestWithParam<std::int64_t> {
 protected:
  PermuteKernel() {
    std::vector<std::int64_t> counts(experts);
    sort_by_expert(make_cpu(1), selection.data(), tokens, selected, experts, counts.data(), row_of.data(),
                   source.data());
  }
  std::vector<std::int32_t> row_of = std::vector<std::int32_t>(tokens * selected);
  std::vector<std::int32_t> source = std::vector<std::int32_t>(rows);
  const std::int64_t width = GetParam();
  const std::vector<bf16> x = random_bf16(tokens * width, 1), sorted = random_bf16(rows * width, 2);
  const std::vector<float> weights = all_as<float>(random_bf16(tokens * selected, 3));
  const std::vector<double> x64 = all_as<double>(x), sorted64 = all_as<double>(sorted),
                            weights64 = all_as<double>(weights);
};

TEST_P(PermuteKernel, RowsOfBfloat16AreWeightedAndRoundedOnce) {
  for (const bool weighted : {false, true}) {
    std::vector<bf16> y(sorted.size());
    std::vector<double> expected(sorted.size());
    permute_rows(make_cpu(1), x.data(), source.data(), weighted ? weights.data() : nullptr, y.data(), rows, selected,
                 width);
    permute_rows(make_cpu(1), x64.data(), source.data(), weighted ? weights64.data() : nullptr, expected.data(), rows,
                 selected, width);
    expect_rounded(y, expected, weighted ? 1e-6 : 0);
  }
}

TEST_P(PermuteKernel, TheSumOfBfloat16RowsIsRoundedOnce) {
  for (const bool weighted : {false, true}) {
    std::vector<bf16> y(x.size());
    std::vector<double> expected(x.size());
    unpermute_rows(make_cpu(1), sorted.data(), row_of.data(), weighted ? weights.data() : nullptr, y.data(), tokens,
                   selected, width);
    unpermute_rows(make_cpu(1), sorted64.data(), row_of.data(), weighted ? weights64.data() : nullptr, expected.data(),
                   tokens, selected, width);
    expect_rounded(y, expected, 2e-6);
  }
}

// Also in float64, for it is the other tests' reference.
TEST_P(PermuteKernel, TheSumIsThatOfAPlainLoop) {
  std::vector<double> y(x.size());
  unpermute_rows(make_cpu(2), sorted64.data(), row_of.data(), weights64.data(), y.data(), tokens, selected, width);
  for (std::int64_t t = 0; t < tokens; ++t)
    for (std::int64_t c = 0; c < width; ++c) {
      double sum = 0;
      for (std::int64_t a = t * selected; a < (t + 1) * selected; ++a)
        if (row_of[static_cast<std::size_t>(a)] >= 0)
          sum += weights64[static_cast<std::size_t>(a)] *
                 sorted64[static_cast<std::size_t>(row_of[static_cast<std::size_t>(a)] * width + c)];
      ASSERT_NEAR(y[static_cast<std::size_t>(t * width + c)], sum, 1e-13) << t << ' ' << c;
    }
}

TEST_P(PermuteKernel, ProductsOfBfloat16RowsAreFloat) {
  std::vector<float> products(weights.size());
  std::vector<double> expected(weights.size());
  row_products(make_cpu(1), sorted.data(), row_of.data(), x.data(), products.data(), tokens, selected, width);
  row_products(make_cpu(1), sorted64.data(), row_of.data(), x64.data(), expected.data(), tokens, selected, width);
  expect_rounded(products, expected, 1e-6 * static_cast<double>(width));
}

INSTANTIATE_TEST_SUITE_P(Widths, PermuteKernel, ::testing::Values(1, 7, 513, 1100));

}  // namespace
}  // namespace limbeck::kernels
