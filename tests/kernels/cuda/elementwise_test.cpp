#include "kernels/elementwise.h"

#include "tests/kernels/cuda/on_gpu.h"

namespace limbeck::kernels {
namespace {

using namespace limbeck::testing;

template <class Types>
class CudaSums : public ::testing::Test {};
using Pairs =
    ::testing::Types<std::pair<float, float>, std::pair<double, double>, std::pair<bf16, bf16>, std::pair<float, bf16>>;
TYPED_TEST_SUITE(CudaSums, Pairs);

TYPED_TEST(CudaSums, AreThoseOfTheCpu) {
  using A = typename TypeParam::first_type;
  using B = typename TypeParam::second_type;
  for (const std::int64_t n : {0, 1, 9, 256, 4099})
    for (const std::size_t misplaced : {0, 1}) {
      const auto a = random_values<A>(n, 1);
      const auto b = random_values<B>(n, 2);
      std::vector<A> expected(a.size());
      add(cpu(), a.data(), b.data(), expected.data(), n);
      OnGpu<A> a_there(a), y(n);
      OnGpu<B> b_there(b, misplaced);
      add(gpu(), a_there.data(), b_there.data(), y.data(), n);
      expect_same(y.values(), expected);
      add_to(gpu(), b_there.data(), a_there.data(), n);  // in place
      expect_same(a_there.values(), expected);
    }
}

template <class T>
class CudaElementwise : public ::testing::Test {};
using Types = ::testing::Types<float, double, bf16>;
TYPED_TEST_SUITE(CudaElementwise, Types);

TYPED_TEST(CudaElementwise, ScalesInPlaceToo) {
  using T = TypeParam;
  for (const std::int64_t n : {0, 1, 9, 256, 4099}) {
    const auto x = random_values<T>(n, 1);
    std::vector<T> expected(x.size());
    scale(cpu(), x.data(), Acc<T>(0.3), expected.data(), n);
    OnGpu<T> there(x, n == 256 ? 1 : 0), y(n);
    scale(gpu(), there.data(), Acc<T>(0.3), y.data(), n);
    expect_same(y.values(), expected);
    scale(gpu(), there.data(), Acc<T>(0.3), there.data(), n);
    expect_same(there.values(), expected);
  }
}

TYPED_TEST(CudaElementwise, FactorsAreReadOnTheGpu) {
  using T = TypeParam;
  for (const std::int64_t n : {0, 1, 9, 256, 4099}) {
    const auto a = random_values<T>(n, 1), b = random_values<T>(n, 2), factor = random_values<T>(1, 3);
    std::vector<T> filled(a.size()), difference(a.size());
    fill(cpu(), factor.data(), 0.7, filled.data(), n);
    scaled_difference(cpu(), a.data(), b.data(), factor.data(), 0.7, difference.data(), n);
    OnGpu<T> a_there(a), b_there(b), factor_there(factor), y(n), z(n);
    fill(gpu(), factor_there.data(), 0.7, y.data(), n);
    scaled_difference(gpu(), a_there.data(), b_there.data(), factor_there.data(), 0.7, z.data(), n);
    expect_same(y.values(), filled);
    expect_same(z.values(), difference);
    fill(cpu(), static_cast<const T*>(nullptr), 0.7, filled.data(), n);
    fill(gpu(), static_cast<const T*>(nullptr), 0.7, y.data(), n);
    expect_same(y.values(), filled);
  }
}

TYPED_TEST(CudaElementwise, PartsAreAddedInTheirOrder) {
  using T = TypeParam;
  for (const std::int64_t n : {0, 1, 9, 256})
    for (const std::int64_t count : {1, 2, 5}) {
      const auto parts = random_values<T>(count * n, 1);
      std::vector<T> expected(static_cast<std::size_t>(n));
      sum_of_parts(cpu(), parts.data(), count, expected.data(), n);
      OnGpu<T> there(parts), y(n);
      sum_of_parts(gpu(), there.data(), count, y.data(), n);
      expect_same(y.values(), expected);
    }
}

}  // namespace
}  // namespace limbeck::kernels
