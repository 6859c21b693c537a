#include "kernels/index_check.h"

#include "tests/kernels/cuda/on_gpu.h"

namespace limbeck::kernels {
namespace {

using namespace limbeck::testing;

template <class I>
class CudaIndexCheck : public ::testing::Test {};
using Types = ::testing::Types<std::int32_t, std::int64_t>;
TYPED_TEST_SUITE(CudaIndexCheck, Types);

TYPED_TEST(CudaIndexCheck, NotesTheFirstOfTheFirstCheck) {
  using I = TypeParam;
  const std::int64_t n = 20000;
  auto index = random_indices<I>(n, 1, -1, 50);
  OnGpu<NotedIndex> noted(std::vector<NotedIndex>(1));
  OnGpu<I> good(index);
  note_outside(gpu(), good.data(), n, -1, 50, 3, noted.data());
  note_outside(gpu(), good.data(), 0, 7, 7, 4, noted.data());
  EXPECT_EQ(noted.values()[0].check, -1);
  index[19999] = 50;
  index[9000] = -2;
  index[9001] = 60;
  OnGpu<I> bad(index);
  note_outside(gpu(), bad.data(), n, -1, 50, 5, noted.data());
  note_outside(gpu(), bad.data(), 1, 60, 61, 6, noted.data());
  const NotedIndex first = noted.values()[0];
  EXPECT_EQ(first.check, 5);
  EXPECT_EQ(first.position, 9000);
  EXPECT_EQ(first.value, -2);
}

}  // namespace
}  // namespace limbeck::kernels
