#include "kernels/heads.h"

#include "tests/kernels/cuda/on_gpu.h"

namespace limbeck::kernels {
namespace {

using namespace limbeck::testing;

template <class T>
class CudaHeads : public ::testing::Test {};
using Types = ::testing::Types<float, double, bf16>;
TYPED_TEST_SUITE(CudaHeads, Types);

// Parts at steps of their own, with gaps that stay as they were.
TYPED_TEST(CudaHeads, AreCopiedAndAddedUp) {
  using T = TypeParam;
  for (const std::int64_t tokens : {0, 1, 37})
    for (const std::int64_t heads : {1, 3})
      for (const std::int64_t width : {1, 32, 97}) {
        const std::int64_t from_head = width + 5, from_token = heads * from_head, to_head = width + 2;
        const auto x = random_values<T>(tokens * from_token, 1), before = random_values<T>(tokens * heads * to_head, 2);
        std::vector<T> copied = before, sums(static_cast<std::size_t>(tokens * width));
        OnGpu<T> x_there(x), copied_there(before), sums_there(tokens * width);
        copy_heads(cpu(), HeadParts<const T>{x.data() + 3, from_token, from_head},
                   HeadParts<T>{copied.data() + 1, heads * to_head, to_head}, tokens, heads, width);
        sum_heads(cpu(), HeadParts<const T>{x.data() + 3, from_token, from_head}, sums.data(), tokens, heads, width);
        copy_heads(gpu(), HeadParts<const T>{x_there.data() + 3, from_token, from_head},
                   HeadParts<T>{copied_there.data() + 1, heads * to_head, to_head}, tokens, heads, width);
        sum_heads(gpu(), HeadParts<const T>{x_there.data() + 3, from_token, from_head}, sums_there.data(), tokens,
                  heads, width);
        expect_same(copied_there.values(), copied);
        expect_close(sums_there.values(), sums, 10);
      }
}

// One part for all heads, at a step of 0.
TYPED_TEST(CudaHeads, OnePartIsCopiedToAll) {
  using T = TypeParam;
  const std::int64_t tokens = 5, heads = 3, width = 7;
  const auto x = random_values<T>(tokens * width, 1);
  std::vector<T> all(static_cast<std::size_t>(tokens * heads * width));
  OnGpu<T> x_there(x), all_there(tokens * heads * width);
  copy_heads(cpu(), HeadParts<const T>{x.data(), width, 0}, HeadParts<T>{all.data(), heads * width, width}, tokens,
             heads, width);
  copy_heads(gpu(), HeadParts<const T>{x_there.data(), width, 0}, HeadParts<T>{all_there.data(), heads * width, width},
             tokens, heads, width);
  expect_same(all_there.values(), all);
}

}  // namespace
}  // namespace limbeck::kernels
