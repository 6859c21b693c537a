#include "kernels/convert.h"

#include "tests/kernels/cuda/on_gpu.h"

namespace limbeck::kernels {
namespace {

using namespace limbeck::testing;

template <class Types>
class CudaConvert : public ::testing::Test {};
using AllTypes = ::testing::Types<std::pair<float, float>, std::pair<float, double>, std::pair<float, bf16>,
                                  std::pair<double, float>, std::pair<double, double>, std::pair<double, bf16>,
                                  std::pair<bf16, float>, std::pair<bf16, double>, std::pair<bf16, bf16>>;
TYPED_TEST_SUITE(CudaConvert, AllTypes);

TYPED_TEST(CudaConvert, HasTheBitsOfTheCpu) {
  using From = typename TypeParam::first_type;
  using To = typename TypeParam::second_type;
  for (const std::int64_t n : {0, 1, 7, 8, 257, 40000})
    for (const std::size_t misplaced : {0, 1}) {
      auto x = random_values<From>(n, 1);
      if (n > 100) x[3] = as<From>(1e30), x[5] = as<From>(-1e-41), x[6] = as<From>(INFINITY), x[9] = as<From>(-0.0);
      OnGpu<From> from(x, misplaced);
      OnGpu<To> to(n);
      convert(gpu(), from.data(), to.data(), n);
      std::vector<To> expected(x.size());
      convert(cpu(), x.data(), expected.data(), n);
      expect_same(to.values(), expected);
    }
}

}  // namespace
}  // namespace limbeck::kernels
