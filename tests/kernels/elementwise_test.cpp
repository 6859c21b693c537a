#include "kernels/elementwise.h"

#include "tests/support/bf16_values.h"

namespace limbeck::kernels {
namespace {

using limbeck::testing::all_as, limbeck::testing::expect_rounded, limbeck::testing::random_bf16;

constexpr std::int64_t lengths[] = {0, 1, 7, 33, 1001};
constexpr double slack = 1e-6;  // of values about 1, in float32

/// a + b for a of type A, by `add` and by `add_to`.
template <class A>
void expect_sums(std::int64_t n) {
  const auto a = all_as<A>(random_bf16(n, 1));
  const auto b = random_bf16(n, 2);
  std::vector<double> expected;
  for (std::size_t i = 0; i < a.size(); ++i) expected.push_back(as<double>(a[i]) + as<double>(b[i]));
  std::vector<A> y(a.size()), to = a;
  add(make_cpu(1), a.data(), b.data(), y.data(), n);
  expect_rounded(y, expected, slack);
  add_to(make_cpu(2), b.data(), to.data(), n);
  expect_rounded(to, expected, slack);
}

TEST(Elementwise, SumsOfBfloat16AreRoundedOnce) {
  for (const std::int64_t n : lengths) {
    expect_sums<bf16>(n);
    expect_sums<float>(n);
  }
}

TEST(Elementwise, FactorsOfBfloat16ValuesAreFloat) {
  for (const std::int64_t n : lengths) {
    const auto a = random_bf16(n, 3), b = random_bf16(n, 4);
    const auto factor = random_bf16(1, 5);
    const double third = as<double>(factor[0]) / 3;
    std::vector<bf16> y(a.size());
    std::vector<double> scaled, differences;
    for (std::size_t i = 0; i < a.size(); ++i) {
      scaled.push_back(as<double>(a[i]) / 3);
      differences.push_back(third * (as<double>(a[i]) - as<double>(b[i])));
    }
    scale(make_cpu(1), a.data(), 1.F / 3, y.data(), n);
    expect_rounded(y, scaled, slack);
    scaled_difference(make_cpu(1), a.data(), b.data(), factor.data(), 1. / 3, y.data(), n);
    expect_rounded(y, differences, slack);
    fill(make_cpu(1), factor.data(), 1. / 3, y.data(), n);
    expect_rounded(y, std::vector<double>(a.size(), third), slack);
    fill(make_cpu(1), static_cast<const bf16*>(nullptr), 0.5, y.data(), n);
    expect_rounded(y, std::vector<double>(a.size(), 0.5), 0);
  }
}

}  // namespace
}  // namespace limbeck::kernels
