#include "kernels/one_hot.h"

#include "tests/kernels/cuda/on_gpu.h"

namespace limbeck::kernels {
namespace {

using namespace limbeck::testing;

TEST(CudaOneHot, HasTheValueAtItsColumnsAlone) {
  const std::vector<std::int32_t> index = {4, -1, 70, 3, 100, 37};
  for (const std::int64_t columns : {1, 32, 67}) {
    const auto rows = std::ssize(index);
    OnGpu<std::int32_t> index_there(index);
    OnGpu<float> there(rows * columns);
    one_hot(gpu(), index_there.data(), 2.5F, there.data(), rows, columns, /*first=*/4);
    const auto y = there.values();
    for (std::int64_t t = 0; t < rows; ++t)
      for (std::int64_t c = 0; c < columns; ++c)
        EXPECT_EQ(y[static_cast<std::size_t>(t * columns + c)],
                  index[static_cast<std::size_t>(t)] == c + 4 ? 2.5F : 0.0F);
  }
}

}  // namespace
}  // namespace limbeck::kernels
