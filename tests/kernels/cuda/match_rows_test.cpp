#include "kernels/match_rows.h"

#include "tests/kernels/cuda/on_gpu.h"

namespace limbeck::kernels {
namespace {

using namespace limbeck::testing;

template <class T>
class CudaMatchRows : public ::testing::Test {};
using Types = ::testing::Types<float, double, bf16>;
TYPED_TEST_SUITE(CudaMatchRows, Types);

TYPED_TEST(CudaMatchRows, DistancesAndGradientsAreThoseOfTheCpu) {
  using T = TypeParam;
  for (const auto& [rows, width] : {std::pair<std::int64_t, std::int64_t>{0, 8}, {1, 1}, {7, 33}, {40, 64}, {3, 600}})
    for (const RowDistance kind : {RowDistance::SquaredError, RowDistance::Cosine}) {
      auto x = random_values<T>(rows * width, 1, 1);
      if (rows == 7) std::fill_n(x.begin(), width, T{});
      const auto y = random_values<Acc<T>>(rows * width, 2, 1);
      const auto targets = random_indices(rows, 3, -1, 3);
      const std::vector<Acc<T>> dloss{Acc<T>(1.5)};
      const std::vector<double> scale{0.25};
      std::vector<double> distance(static_cast<std::size_t>(rows)), squares(distance.size());
      std::vector<T> dx(x.size());
      row_distance(cpu(), kind, x.data(), y.data(), targets.data(), {3, scale.data()}, distance.data(), squares.data(),
                   rows, width);
      row_distance_gradient(cpu(), kind, x.data(), y.data(), targets.data(), {3, scale.data()}, dloss.data(), dx.data(),
                            rows, width);
      OnGpu<T> x_there(x), dx_there(rows * width);
      OnGpu<Acc<T>> y_there(y), dloss_there(dloss);
      OnGpu<std::int32_t> targets_there(targets);
      OnGpu<double> scale_there(scale), distance_there(rows), squares_there(rows);
      row_distance(gpu(), kind, x_there.data(), y_there.data(), targets_there.data(), {3, scale_there.data()},
                   distance_there.data(), squares_there.data(), rows, width);
      row_distance_gradient(gpu(), kind, x_there.data(), y_there.data(), targets_there.data(), {3, scale_there.data()},
                            dloss_there.data(), dx_there.data(), rows, width);
      expect_close(distance_there.values(), distance, 10);
      expect_close(squares_there.values(), squares, 10);
      expect_close(dx_there.values(), dx);
    }
}

}  // namespace
}  // namespace limbeck::kernels
