#include "kernels/matmul.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <vector>

#include "kernels/grouped_matmul.h"

namespace limbeck::kernels {
namespace {

template <class T>
std::vector<T> random_values(std::int64_t n, unsigned seed) {
  std::mt19937 engine(seed);
  std::vector<T> v(static_cast<std::size_t>(n));
  for (T& x : v) x = static_cast<T>(static_cast<double>(engine()) / 0x1p31 - 1);
  return v;
}

template <class A>
double value(A x) {
  if constexpr (std::is_same_v<A, bf16>)
    return static_cast<float>(x);
  else
    return x;
}

/// op(A) op(B) + beta C in float64, one element after the other.
template <class T, class W>
std::vector<double> naive(Transpose ta, Transpose tb, std::int64_t m, std::int64_t n, std::int64_t k, const T* a,
                          const W* b, double beta, const T* c) {
  std::vector<double> result(static_cast<std::size_t>(m * n));
  for (std::int64_t i = 0; i < m; ++i)
    for (std::int64_t j = 0; j < n; ++j) {
      double sum = beta == 0 ? 0 : beta * c[i * n + j];
      for (std::int64_t p = 0; p < k; ++p)
        sum += value(a[ta == Transpose::Yes ? p * m + i : i * k + p]) *
               value(b[tb == Transpose::Yes ? j * k + p : p * n + j]);
      result[static_cast<std::size_t>(i * n + j)] = sum;
    }
  return result;
}

struct Extents {
  std::int64_t m, n, k;
};

template <class T, class W>
void compare(const Cpu& cpu, Extents e, Transpose ta, Transpose tb, T beta, double tolerance) {
  const auto a = random_values<T>(e.m * e.k, 1);
  const auto numbers = random_values<float>(e.k * e.n, 2);
  const std::vector<W> b(numbers.begin(), numbers.end());
  // With beta = 0 the old contents must not count, whatever they are.
  auto c = beta == 0 ? std::vector<T>(static_cast<std::size_t>(e.m * e.n), NAN) : random_values<T>(e.m * e.n, 3);
  const auto expected = naive(ta, tb, e.m, e.n, e.k, a.data(), b.data(), beta, c.data());
  matmul(cpu, ta, tb, e.m, e.n, e.k, a.data(), b.data(), beta, c.data());
  for (std::size_t i = 0; i < c.size(); ++i)
    ASSERT_NEAR(c[i], expected[i], tolerance * (1 + static_cast<double>(e.k)))
        << e.m << "x" << e.n << "x" << e.k << " element " << i << " threads " << cpu.threads;
}

constexpr Extents extents[] = {{0, 5, 3},    {5, 0, 3},      {4, 5, 0},    {1, 1, 1},     {3, 5, 7},    {17, 33, 65},
                               {64, 96, 80}, {128, 70, 300}, {1, 100, 64}, {2, 700, 513}, {7, 301, 90}, {8, 64, 577}};

TEST(Matmul, EqualsTheNaiveProductForEveryTransposition) {
  for (const int threads : {1, 2}) {
    const Cpu cpu = make_cpu(threads);
    for (const auto& e : extents)
      for (const auto& [ta, tb] : {std::pair{Transpose::No, Transpose::No}, std::pair{Transpose::No, Transpose::Yes},
                                   std::pair{Transpose::Yes, Transpose::No}, std::pair{Transpose::Yes, Transpose::Yes}})
        for (const int beta : {0, 1}) {
          compare<float, float>(cpu, e, ta, tb, static_cast<float>(beta), 1e-6);
          compare<double, double>(cpu, e, ta, tb, beta, 1e-15);
        }
  }
}

TEST(Matmul, WidensABfloat16WeightInTiles) {
  const Cpu cpu = make_cpu(1);
  for (const auto& e : extents)
    for (const auto tb : {Transpose::No, Transpose::Yes})
      for (const int beta : {0, 1}) {
        compare<float, bf16>(cpu, e, Transpose::No, tb, static_cast<float>(beta), 1e-6);
        compare<double, bf16>(cpu, e, Transpose::No, tb, beta, 1e-15);
      }
  compare<float, bf16>(cpu, {3, 600, 500}, Transpose::No, Transpose::Yes, 0, 1e-6);  // several tiles
  compare<float, bf16>(cpu, {3, 600, 500}, Transpose::No, Transpose::No, 1, 1e-6);
}

TEST(Matmul, OfFewRowsOneDoesNotDependOnTheOthers) {
  constexpr std::int64_t n = 1203, k = 77, most = 8;
  const auto a = random_values<float>(most * k, 4);
  const auto b = random_values<float>(n * k, 5);
  const auto run = [&](int threads, std::int64_t first, std::int64_t m) {
    std::vector<float> c(static_cast<std::size_t>(m * n));
    matmul(make_cpu(threads), Transpose::No, Transpose::Yes, m, n, k, a.data() + first * k, b.data(), 0.F, c.data());
    return c;
  };
  std::vector<float> alone;
  for (std::int64_t i = 0; i < most; ++i) {
    const auto row = run(1, i, 1);
    alone.insert(alone.end(), row.begin(), row.end());
  }
  for (std::int64_t m = 1; m <= most; ++m)
    EXPECT_EQ(run(1 + static_cast<int>(m % 2), 0, m), std::vector<float>(alone.begin(), alone.begin() + m * n)) << m;
}

TEST(Matmul, GivesTheSameBitsWhateverWasComputedBefore) {
  const auto run = [](const Cpu& cpu, std::int64_t m) {
    const auto a = random_values<float>(m * 70, 4);
    const auto b = random_values<float>(90 * 70, 5);
    std::vector<float> c(static_cast<std::size_t>(m * 90));
    matmul(cpu, Transpose::No, Transpose::Yes, m, 90, 70, a.data(), b.data(), 0.F, c.data());
    return c;
  };
  const Cpu fresh = make_cpu(1);
  const Cpu used = make_cpu(1);
  for (std::int64_t m = 1; m < 300; ++m) run(used, m * 64 % 6400);
  for (const std::int64_t m : {1, 63, 64, 65, 128}) EXPECT_EQ(run(fresh, m), run(used, m)) << m;
}

class GroupedMatmul : public ::testing::TestWithParam<int> {};

// Five experts, of which the first and the fourth get no row; rows 0 and 12..14 belong to none.
TEST_P(GroupedMatmul, IsOneProductAnExpert) {
  const Cpu cpu = make_cpu(GetParam());
  constexpr std::int64_t experts = 5, in = 7, out = 9, rows = 15;
  const std::vector<std::int64_t> offsets = {1, 1, 5, 6, 6, 12};
  const auto x = random_values<double>(rows * in, 1);
  const auto w = random_values<double>(experts * out * in, 2);
  const auto dy = random_values<double>(rows * out, 3);
  for (const double beta : {0.0, 1.0}) {
    std::vector<double> y(rows * out, 100), dx(rows * in, 100), dw(experts * out * in, 100);
    auto y_expected = y, dx_expected = dx, dw_expected = dw;
    for (std::int64_t e = 0; e < experts; ++e) {
      const std::int64_t first = offsets[e], count = offsets[e + 1] - first;
      const auto put = [](const std::vector<double>& from, double* to) { std::copy(from.begin(), from.end(), to); };
      put(naive(Transpose::No, Transpose::Yes, count, out, in, &x[first * in], &w[e * out * in], beta,
                &y_expected[first * out]),
          &y_expected[first * out]);
      put(naive(Transpose::No, Transpose::No, count, in, out, &dy[first * out], &w[e * out * in], beta,
                &dx_expected[first * in]),
          &dx_expected[first * in]);
      put(naive(Transpose::Yes, Transpose::No, out, in, count, &dy[first * out], &x[first * in], beta,
                &dw_expected[e * out * in]),
          &dw_expected[e * out * in]);
    }
    grouped_matmul(cpu, experts, in, out, offsets.data(), x.data(), w.data(), beta, y.data());
    grouped_matmul_input(cpu, experts, in, out, offsets.data(), dy.data(), w.data(), beta, dx.data());
    grouped_matmul_weight(cpu, experts, in, out, offsets.data(), dy.data(), x.data(), beta, dw.data());
    const auto near = [](const std::vector<double>& a, const std::vector<double>& b) {
      for (std::size_t i = 0; i < a.size(); ++i) ASSERT_NEAR(a[i], b[i], 1e-12) << i;
    };
    near(y, y_expected);
    near(dx, dx_expected);
    near(dw, dw_expected);
  }
}
INSTANTIATE_TEST_SUITE_P(Threads, GroupedMatmul, ::testing::Values(1, 2, 3));

}  // namespace
}  // namespace limbeck::kernels
