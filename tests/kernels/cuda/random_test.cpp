// Kernels that draw: the same numbers on every device.
#include "kernels/dropout.h"
#include "kernels/jitter.h"
#include "kernels/normal.h"
#include "tests/kernels/cuda/on_gpu.h"

namespace limbeck::kernels {
namespace {

using namespace limbeck::testing;

constexpr PhiloxStream stream{{123, 456}, 7};

template <class T>
class CudaRandom : public ::testing::Test {};
using Types = ::testing::Types<float, double, bf16>;
TYPED_TEST_SUITE(CudaRandom, Types);

TYPED_TEST(CudaRandom, DropoutAndJitterDrawAsOnTheCpu) {
  using T = TypeParam;
  for (const std::int64_t rows : {0, 1, 40})
    for (const std::int64_t width : {1, 7, 64}) {
      const auto x = random_values<T>(rows * width, 1);
      const auto index = random_indices<std::int64_t>(rows, 2, 0, std::int64_t{1} << 40);
      std::vector<T> dropped(x.size()), jittered(x.size());
      dropout(cpu(), x.data(), index.data(), dropped.data(), rows, width, 0.3, stream);
      jitter(cpu(), x.data(), index.data(), jittered.data(), rows, width, 0.01, stream);
      OnGpu<T> there(x), jittered_there(rows * width);
      OnGpu<std::int64_t> index_there(index);
      jitter(gpu(), there.data(), index_there.data(), jittered_there.data(), rows, width, 0.01, stream);
      dropout(gpu(), there.data(), index_there.data(), there.data(), rows, width, 0.3, stream);  // in place
      expect_close(there.values(), dropped);
      expect_close(jittered_there.values(), jittered);
    }
}

template <class T>
class CudaNormal : public ::testing::Test {};
using NormalTypes = ::testing::Types<float, double>;
TYPED_TEST_SUITE(CudaNormal, NormalTypes);

TYPED_TEST(CudaNormal, IsThatOfTheCpu) {
  using T = TypeParam;
  for (const std::int64_t rows : {0, 1, 40})
    for (const std::int64_t width : {1, 7, 64}) {
      const auto index = random_indices<std::int64_t>(rows, 2, 0, std::int64_t{1} << 40);
      std::vector<T> y(static_cast<std::size_t>(rows * width));
      normal_rows(cpu(), stream, 0.02, index.data(), y.data(), rows, width);
      OnGpu<std::int64_t> index_there(index);
      OnGpu<T> there(rows * width);
      normal_rows(gpu(), stream, 0.02, index_there.data(), there.data(), rows, width);
      expect_close(there.values(), y, 0.1);
    }
}

}  // namespace
}  // namespace limbeck::kernels
