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
  for (const std::int64_t at : {9000, 9001, 13000, 17000, 19999}) index[static_cast<std::size_t>(at)] = -2;
  OnGpu<I> bad(index);
  for (int time = 0; time < 20; ++time) {  // in whatever order the blocks run
    OnGpu<NotedIndex> of_bad(std::vector<NotedIndex>(1));
    note_outside(gpu(), bad.data(), n, -1, 50, 5, of_bad.data());
    note_outside(gpu(), bad.data(), 1, 60, 61, 6, of_bad.data());
    const NotedIndex first = of_bad.values()[0];
    EXPECT_EQ(first.check, 5);
    EXPECT_EQ(first.position, 9000);
    EXPECT_EQ(first.value, -2);
  }
}

}  // namespace
}  // namespace limbeck::kernels
