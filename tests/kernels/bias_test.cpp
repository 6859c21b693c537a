#include "kernels/bias.h"

#include "tests/support/bf16_values.h"

namespace limbeck::kernels {
namespace {

using limbeck::testing::all_as, limbeck::testing::expect_rounded, limbeck::testing::random_bf16;

template <class T>
void compare(std::int64_t rows, std::int64_t width) {
  const auto x = all_as<T>(random_bf16(rows * width, 1));
  const auto bias = all_as<Acc<T>>(random_bf16(width, 2)), before = all_as<Acc<T>>(random_bf16(width, 3));
  std::vector<double> expected, sums = all_as<double>(before);
  for (std::int64_t t = 0; t < rows; ++t)
    for (std::int64_t c = 0; c < width; ++c) {
      expected.push_back(as<double>(x[t * width + c]) + as<double>(bias[c]));
      sums[c] += as<double>(x[t * width + c]);
    }
  auto y = x;
  add_bias(make_cpu(2), y.data(), bias.data(), y.data(), rows, width);  // in place
  expect_rounded(y, expected, 0);
  auto found = before;
  column_sums(make_cpu(2), x.data(), /*add=*/true, found.data(), rows, width);
  const double slack = (std::is_same_v<T, double> ? 1e-15 : 1e-6) * static_cast<double>(rows);
  expect_rounded(found, sums, slack);
  for (std::int64_t c = 0; c < width; ++c) sums[c] -= as<double>(before[c]);
  column_sums(make_cpu(1), x.data(), /*add=*/false, found.data(), rows, width);
  expect_rounded(found, sums, slack);
}

TEST(Bias, IsAddedToEachRowAndItsGradientIsTheSumOfTheRows) {
  for (const auto& [rows, width] :
       {std::pair{0, 5}, std::pair{1, 1}, std::pair{3, 7}, std::pair{33, 129}, std::pair{500, 300}, std::pair{2, 0}}) {
    compare<float>(rows, width);
    compare<double>(rows, width);
    compare<bf16>(rows, width);
  }
}

TEST(Bias, BitsOfTheSumsDependOnNoNumberOfThreads) {
  constexpr std::int64_t rows = 301, width = 1000;
  const auto x = all_as<float>(random_bf16(rows * width, 1));
  std::vector<float> alone(width), shared(width);
  column_sums(make_cpu(1), x.data(), /*add=*/false, alone.data(), rows, width);
  for (const int threads : {2, 5}) {
    column_sums(make_cpu(threads), x.data(), /*add=*/false, shared.data(), rows, width);
    EXPECT_EQ(shared, alone);
  }
}

}  // namespace
}  // namespace limbeck::kernels
