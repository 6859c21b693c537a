#include "kernels/bias.h"

#include "tests/kernels/cuda/on_gpu.h"

namespace limbeck::kernels {
namespace {

using namespace limbeck::testing;

template <class T>
class CudaBias : public ::testing::Test {};
using Types = ::testing::Types<float, double, bf16>;
TYPED_TEST_SUITE(CudaBias, Types);

TYPED_TEST(CudaBias, IsThatOfTheCpu) {
  using T = TypeParam;
  using A = Acc<T>;
  for (const auto& [rows, width] : std::vector<std::pair<std::int64_t, std::int64_t>>{
           {0, 8}, {1, 1}, {3, 7}, {5, 64}, {130, 24}, {5000, 9}, {9, 1000}, {2, 33000}, {3, 0}})
    for (const std::size_t misplaced : {0, 1}) {
      const auto x = random_values<T>(rows * width, 1);
      const auto bias = random_values<A>(width, 2), before = random_values<A>(width, 3);
      auto y = x;
      add_bias(cpu(), x.data(), bias.data(), y.data(), rows, width);
      OnGpu<T> x_there(x, misplaced), y_there(rows * width);
      OnGpu<A> bias_there(bias);
      add_bias(gpu(), x_there.data(), bias_there.data(), y_there.data(), rows, width);
      expect_same(y_there.values(), y);
      for (const bool add : {false, true}) {
        auto sums = before;
        column_sums(cpu(), x.data(), add, sums.data(), rows, width);
        OnGpu<A> sums_there(before);
        column_sums(gpu(), x_there.data(), add, sums_there.data(), rows, width);
        expect_close(sums_there.values(), sums, 30);
      }
      add_bias(gpu(), x_there.data(), bias_there.data(), x_there.data(), rows, width);  // in place
      expect_same(x_there.values(), y);
    }
}

}  // namespace
}  // namespace limbeck::kernels
