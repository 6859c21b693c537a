#include "kernels/one_hot.h"

#include "tests/kernels/cuda/on_gpu.h"

namespace limbeck::kernels {
namespace {

using namespace limbeck::testing;

template <class T>
void check_values() {
  const std::vector<std::int32_t> all = {4, -1, 70, 3, 100, 37};
  for (const std::int64_t rows : {0, 1, 6})
    for (const std::int64_t columns : {1, 32, 67}) {
      SCOPED_TRACE(rows * 100 + columns);
      const std::vector<std::int32_t> index(all.begin(), all.begin() + rows);
      OnGpu<std::int32_t> index_there(index);
      OnGpu<T> there(rows * columns);
      one_hot(gpu(), index_there.data(), T{2.5}, there.data(), rows, columns, /*first=*/4);
      std::vector<T> expected;
      for (const std::int32_t id : index)
        for (std::int64_t c = 0; c < columns; ++c) expected.push_back(id == c + 4 ? T{2.5} : T{0});
      expect_same(there.values(), expected);
    }
}

TEST(CudaOneHot, HasTheValueAtItsColumnsAlone) {
  check_values<float>();
  check_values<double>();
}

}  // namespace
}  // namespace limbeck::kernels
