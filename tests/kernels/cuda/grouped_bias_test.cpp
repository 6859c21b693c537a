#include "kernels/grouped_bias.h"

#include "tests/kernels/cuda/on_gpu.h"

namespace limbeck::kernels {
namespace {

using namespace limbeck::testing;

template <class T>
class CudaGroupedBias : public ::testing::Test {};
using Types = ::testing::Types<float, double, bf16>;
TYPED_TEST_SUITE(CudaGroupedBias, Types);

struct Case {
  std::vector<std::int64_t> offsets;
  std::int64_t rows, width, first, columns;
};
const Case cases[] = {{{0, 0}, 0, 5, 0, 5},           {{0, 1}, 1, 1, 0, 1},
                      {{1, 3, 3, 90}, 91, 7, 0, 7},   {{0, 0, 300, 500}, 500, 300, 0, 300},
                      {{2, 40, 41}, 45, 130, 64, 66}, {{0, 5, 9}, 9, 12, 12, 0},
                      {{3, 3, 3}, 6, 40, 1, 38}};

TYPED_TEST(CudaGroupedBias, IsThatOfTheCpu) {
  using T = TypeParam;
  using A = Acc<T>;
  for (const Case& of : cases) {
    const std::int64_t groups = std::ssize(of.offsets) - 1;
    const GroupedRows shape{groups, of.offsets.data(), of.rows, of.width, of.first, of.columns};
    OnGpu<std::int64_t> offsets_there(of.offsets);
    GroupedRows there = shape;
    there.offsets = offsets_there.data();
    const auto x = random_values<T>(of.rows * of.width, 1);
    const auto bias = random_values<A>(groups * of.columns, 2), before = random_values<A>(groups * of.columns, 3);
    auto y = x;
    add_grouped_bias(cpu(), x.data(), bias.data(), y.data(), shape);
    OnGpu<T> x_there(x), y_there(of.rows * of.width);
    OnGpu<A> bias_there(bias);
    add_grouped_bias(gpu(), x_there.data(), bias_there.data(), y_there.data(), there);
    expect_same(y_there.values(), y);
    for (const bool add : {false, true}) {
      auto sums = before;
      grouped_column_sums(cpu(), x.data(), add, sums.data(), shape);
      OnGpu<A> sums_there(before);
      grouped_column_sums(gpu(), x_there.data(), add, sums_there.data(), there);
      expect_close(sums_there.values(), sums, 30);
    }
    add_grouped_bias(gpu(), x_there.data(), bias_there.data(), x_there.data(), there);  // in place
    expect_same(x_there.values(), y);
  }
}

}  // namespace
}  // namespace limbeck::kernels
