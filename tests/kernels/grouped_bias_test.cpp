#include "kernels/grouped_bias.h"

#include "tests/support/bf16_values.h"

namespace limbeck::kernels {
namespace {

using limbeck::testing::all_as, limbeck::testing::expect_rounded, limbeck::testing::random_bf16;

struct Case {
  std::vector<std::int64_t> offsets;
  std::int64_t rows, width, first, columns;
};
const Case cases[] = {{{0, 0}, 0, 5, 0, 5},           {{0, 1}, 1, 1, 0, 1},
                      {{1, 3, 3, 90}, 91, 7, 0, 7},   {{0, 0, 300, 500}, 500, 300, 0, 300},
                      {{2, 40, 41}, 45, 130, 64, 66}, {{0, 5, 9}, 9, 12, 12, 0}};

template <class T>
void compare(const Case& of) {
  const GroupedRows shape{std::ssize(of.offsets) - 1, of.offsets.data(), of.rows, of.width, of.first, of.columns};
  const auto x = all_as<T>(random_bf16(of.rows * of.width, 1));
  const auto bias = all_as<Acc<T>>(random_bf16(shape.groups * of.columns, 2));
  const auto before = all_as<Acc<T>>(random_bf16(shape.groups * of.columns, 3));
  std::vector<double> expected = all_as<double>(x), sums = all_as<double>(before);
  for (std::int64_t e = 0; e < shape.groups; ++e)
    for (std::int64_t r = of.offsets[e]; r < of.offsets[e + 1]; ++r)
      for (std::int64_t c = 0; c < of.columns; ++c) {
        const std::int64_t at = r * of.width + of.first + c;
        expected[at] += as<double>(bias[e * of.columns + c]);
        sums[e * of.columns + c] += as<double>(x[at]);
      }
  auto y = x;
  add_grouped_bias(make_cpu(2), y.data(), bias.data(), y.data(), shape);  // in place
  expect_rounded(y, expected, 0);
  std::vector<T> apart(x.size());
  add_grouped_bias(make_cpu(1), x.data(), bias.data(), apart.data(), shape);
  expect_rounded(apart, expected, 0);
  const double slack = (std::is_same_v<T, double> ? 1e-15 : 1e-6) * static_cast<double>(of.rows);
  auto found = before;
  grouped_column_sums(make_cpu(2), x.data(), /*add=*/true, found.data(), shape);
  expect_rounded(found, sums, slack);
  for (std::size_t i = 0; i < sums.size(); ++i) sums[i] -= as<double>(before[i]);
  auto alone = before;
  grouped_column_sums(make_cpu(1), x.data(), /*add=*/false, alone.data(), shape);
  expect_rounded(alone, sums, slack);
  grouped_column_sums(make_cpu(5), x.data(), /*add=*/false, found.data(), shape);
  EXPECT_EQ(found, alone);
}

TEST(GroupedBias, IsAddedToTheRowsOfItsGroupAndItsGradientIsTheirSum) {
  for (const Case& of : cases) {
    compare<float>(of);
    compare<double>(of);
    compare<bf16>(of);
  }
}

}  // namespace
}  // namespace limbeck::kernels
