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
  std::vector<std::int32_t> source = std::vector<std::int32_t>(tokens * selected);
  const std::int64_t width = GetParam();
  const std::vector<bf16> x = random_bf16(tokens * width, 1), sorted = random_bf16(rows * width, 2);
  const std::vector<float> weights = all_as<float>(random_bf16(tokens * selected, 3));
  const std::vector<double> x64 = all_as<double>(x), sorted64 = all_as<double>(sorted),
                            weights64 = all_as<double>(weights);
};

TEST_P(PermuteKernel, RowsAreCopies) {
  std::vector<bf16> y(sorted.size());
  permute_rows(make_cpu(2), x.data(), source.data(), y.data(), rows, selected, width);
  for (std::int64_t r = 0; r < rows; ++r)
    for (std::int64_t c = 0; c < width; ++c)
      ASSERT_EQ(y[static_cast<std::size_t>(r * width + c)].bits,
                x[static_cast<std::size_t>(source[static_cast<std::size_t>(r)] / selected * width + c)].bits);
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

TEST_P(PermuteKernel, GradientsOfBfloat16RowsAreThoseOfDoubleRoundedOnce) {
  std::vector<bf16> drows(sorted.size());
  std::vector<float> dweights(weights.size(), -1);
  std::vector<double> drows64(sorted.size()), dweights64(weights.size(), -1);
  unpermute_gradient(make_cpu(2), sorted.data(), source.data(), weights.data(), x.data(), drows.data(), dweights.data(),
                     rows, tokens, selected, width);
  unpermute_gradient(make_cpu(1), sorted64.data(), source.data(), weights64.data(), x64.data(), drows64.data(),
                     dweights64.data(), rows, tokens, selected, width);
  expect_rounded(drows, drows64, 1e-6);
  expect_rounded(dweights, dweights64, 1e-6 * static_cast<double>(width));
  for (std::size_t a = 0; a < dweights.size(); ++a) EXPECT_TRUE(row_of[a] >= 0 || dweights[a] == 0);

  std::vector<bf16> rows_alone(sorted.size());
  std::vector<float> weights_alone(weights.size());
  unpermute_gradient<Cpu, bf16>(make_cpu(1), nullptr, source.data(), weights.data(), x.data(), rows_alone.data(),
                                nullptr, rows, tokens, selected, width);
  unpermute_gradient<Cpu, bf16>(make_cpu(1), sorted.data(), source.data(), weights.data(), x.data(), nullptr,
                                weights_alone.data(), rows, tokens, selected, width);
  EXPECT_EQ(all_as<float>(rows_alone), all_as<float>(drows));
  EXPECT_EQ(weights_alone, dweights);
}

// As for the sum: by a plain loop in float64.
TEST_P(PermuteKernel, GradientsAreThoseOfAPlainLoop) {
  std::vector<double> drows(sorted.size()), dweights(weights.size());
  unpermute_gradient(make_cpu(1), sorted64.data(), source.data(), weights64.data(), x64.data(), drows.data(),
                     dweights.data(), rows, tokens, selected, width);
  for (std::size_t a = 0; a < dweights.size(); ++a) {
    if (row_of[a] < 0) continue;
    double sum = 0;
    for (std::int64_t c = 0; c < width; ++c) {
      const auto row = static_cast<std::size_t>(row_of[a] * width + c);
      const double dy = x64[a / selected * static_cast<std::size_t>(width) + static_cast<std::size_t>(c)];
      ASSERT_DOUBLE_EQ(drows[row], weights64[a] * dy);
      sum += sorted64[row] * dy;
    }
    ASSERT_NEAR(dweights[a], sum, 1e-12);
  }
}

INSTANTIATE_TEST_SUITE_P(Widths, PermuteKernel, ::testing::Values(1, 7, 513, 1100));

}  // namespace
}  // namespace limbeck::kernels
