#include "kernels/matmul.h"

#include "kernels/packed.h"
#include "tests/kernels/cuda/on_gpu.h"

namespace limbeck::kernels {
namespace {

using namespace limbeck::testing;

struct Extents {
  std::int64_t m, n, k;
};
const Extents sizes[] = {{1, 1, 1}, {5, 7, 3}, {64, 48, 32}, {33, 130, 17}, {0, 4, 4}, {4, 0, 4}, {4, 4, 0}};

/// op(A) op(B) + beta C in float64, of what the values are.
template <class A, class B, class C>
std::vector<double> product(const Extents& e, Transpose ta, Transpose tb, const std::vector<A>& a,
                            const std::vector<B>& b, double beta, const std::vector<C>& c) {
  std::vector<double> result;
  for (std::int64_t i = 0; i < e.m; ++i)
    for (std::int64_t j = 0; j < e.n; ++j) {
      double sum = beta == 0 ? 0 : beta * as<double>(c[i * e.n + j]);
      for (std::int64_t p = 0; p < e.k; ++p)
        sum += as<double>(ta == Transpose::No ? a[i * e.k + p] : a[p * e.m + i]) *
               as<double>(tb == Transpose::No ? b[p * e.n + j] : b[j * e.k + p]);
      result.push_back(sum);
    }
  return result;
}

template <class C>
void expect_near(const std::vector<C>& values, const std::vector<double>& expected, double tolerance) {
  ASSERT_EQ(values.size(), expected.size());
  for (std::size_t i = 0; i < values.size(); ++i)
    ASSERT_NEAR(as<double>(values[i]), expected[i], one_rounding<C> * std::abs(expected[i]) + tolerance) << i;
}

template <class T, class B, class C>
void check_products(double tolerance) {
  for (const Extents& e : sizes)
    for (const Transpose ta : {Transpose::No, Transpose::Yes})
      for (const Transpose tb : {Transpose::No, Transpose::Yes})
        for (const double beta : {0.0, 1.0, -0.5}) {
          SCOPED_TRACE(::testing::Message() << e.m << "x" << e.n << "x" << e.k << " beta " << beta);
          const auto a = random_values<T>(e.m * e.k, 1);
          const auto b = random_values<B>(e.n * e.k, 2);
          auto c = random_values<C>(e.m * e.n, 3);
          const auto expected = product(e, ta, tb, a, b, beta, c);
          if (beta == 0)
            for (C& x : c) x = as<C>(std::nan(""));  // never read
          OnGpu<T> a_there(a);
          OnGpu<B> b_there(b);
          OnGpu<C> c_there(c);
          matmul(gpu(), ta, tb, e.m, e.n, e.k, a_there.data(), b_there.data(), static_cast<Acc<T>>(beta),
                 c_there.data());
          expect_near(c_there.values(), expected, tolerance);
        }
}

TEST(CudaMatmul, IsTheProduct) {
  check_products<float, float, float>(1e-4);
  check_products<double, double, double>(1e-12);
  check_products<float, bf16, float>(1e-4);
  check_products<double, bf16, double>(1e-12);
  check_products<bf16, bf16, float>(1e-4);
  check_products<bf16, bf16, bf16>(1e-4);
}

TEST(CudaMatmul, TakesAFactorAsItLies) {
  const Extents e{9, 24, 40};
  const auto a = random_values<bf16>(e.m * e.k, 1), b = random_values<bf16>(e.n * e.k, 2);
  OnGpu<bf16> a_there(a), b_there(b);
  for (const Transpose tb : {Transpose::No, Transpose::Yes}) {
    OnGpu<float> c(e.m * e.n);
    packed_matmul(gpu(), e.m, e.n, e.k, a_there.data(), {tb, b_there.data()}, 0.F, c.data());
    expect_near(c.values(), product(e, Transpose::No, tb, a, b, 0, std::vector<float>()), 1e-4);
  }
}

}  // namespace
}  // namespace limbeck::kernels
