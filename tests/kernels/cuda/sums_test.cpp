#include "kernels/sums.h"

#include <limits>

#include "kernels/cosine.h"
#include "tests/kernels/cuda/on_gpu.h"

namespace limbeck::kernels {
namespace {

using namespace limbeck::testing;

template <class T>
class CudaOrderedSums : public ::testing::Test {};
using Types = ::testing::Types<float, double, bf16>;
TYPED_TEST_SUITE(CudaOrderedSums, Types);

TYPED_TEST(CudaOrderedSums, AreThoseOfTheCpu) {
  using T = TypeParam;
  for (const std::int64_t n : {0, 1, 9, 256, 4099, 20000})
    for (const std::size_t misplaced : {0, 1}) {
      const auto x = random_values<T>(n, 1), y = random_values<T>(n, 2);
      std::vector<double> sums(3);
      sum(cpu(), x.data(), n, &sums[0]);
      sum_of_squares(cpu(), x.data(), n, &sums[1]);
      sum_of_squared_differences(cpu(), x.data(), y.data(), n, &sums[2]);
      OnGpu<T> x_there(x, misplaced), y_there(y);
      OnGpu<double> there(3);
      sum(gpu(), x_there.data(), n, there.data());
      sum_of_squares(gpu(), x_there.data(), n, there.data() + 1);
      sum_of_squared_differences(gpu(), x_there.data(), y_there.data(), n, there.data() + 2);
      expect_close(there.values(), sums, static_cast<double>(n + 1));
    }
}

TYPED_TEST(CudaOrderedSums, AreNotFiniteExactlyIfAValueIsNot) {
  using T = TypeParam;
  std::vector<T> x(5000, as<T>(std::is_same_v<T, double> ? 1.0 : 3e38));
  OnGpu<double> there(1);
  OnGpu<T> finite(x);
  sum_of_squares(gpu(), finite.data(), 5000, there.data());
  EXPECT_TRUE(std::isfinite(there.values()[0]));
  x[4321] = as<T>(std::numeric_limits<double>::infinity());
  OnGpu<T> infinite(x);
  sum(gpu(), infinite.data(), 5000, there.data());
  EXPECT_TRUE(std::isinf(there.values()[0]));
}

TYPED_TEST(CudaOrderedSums, CosinesAreThoseOfTheCpu) {
  using T = TypeParam;
  for (const std::int64_t rows : {0, 1, 20})
    for (const std::int64_t width : {1, 7, 256, 1000}) {
      auto x = random_values<T>(rows * width, 1);
      const auto y = random_values<T>(rows * width, 2);
      if (rows > 3) std::fill_n(x.begin() + 2 * width, width, T{});
      std::vector<double> distance(static_cast<std::size_t>(rows));
      cosine_distance(cpu(), x.data(), y.data(), distance.data(), rows, width);
      OnGpu<T> x_there(x), y_there(y);
      OnGpu<double> there(rows);
      cosine_distance(gpu(), x_there.data(), y_there.data(), there.data(), rows, width);
      expect_close(there.values(), distance, 10);
    }
}

TEST(CudaClipFactor, IsThatOfTheCpu) {
  const double infinity = std::numeric_limits<double>::infinity();
  for (const std::vector<double>& squares :
       {std::vector<double>{}, {4.0}, {1.0, 2.0, 6.0}, std::vector<double>(700, 0.5), {1.0, infinity}, {NAN}})
    for (const double clip : {0.0, 0.5, 100.0}) {
      const auto n = static_cast<std::int64_t>(squares.size());
      std::vector<double> factor(1);
      clip_factor(cpu(), squares.data(), n, clip, factor.data());
      OnGpu<double> squares_there(squares), there(1);
      clip_factor(gpu(), squares_there.data(), n, clip, there.data());
      expect_close(there.values(), factor);
    }
}

TEST(CudaAddCounts, AddsToWhatIsThere) {
  OnGpu<std::int64_t> counts(std::vector<std::int64_t>{3, 0, 1});
  OnGpu<double> sums(std::vector<double>{0.5, 1, 2});
  add_counts(gpu(), counts.data(), sums.data(), 3);
  EXPECT_EQ(sums.values(), (std::vector<double>{3.5, 1, 3}));
}

}  // namespace
}  // namespace limbeck::kernels
