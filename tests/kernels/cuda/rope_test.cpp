#include "kernels/rope.h"

#include <array>

#include "tests/kernels/cuda/on_gpu.h"

namespace limbeck::kernels {
namespace {

using namespace limbeck::testing;

template <class T>
class CudaRope : public ::testing::Test {};
using Types = ::testing::Types<float, double, bf16>;
TYPED_TEST_SUITE(CudaRope, Types);

TYPED_TEST(CudaRope, TurnsAsTheCpuDoes) {
  using T = TypeParam;
  struct Shape {
    std::int64_t tokens, queries, keys, head_width, turning;
  };
  for (const auto [tokens, queries, keys, head_width, turning] :
       {Shape{0, 2, 1, 8, 8}, Shape{1, 1, 1, 2, 2}, Shape{5, 3, 1, 16, 16}, Shape{3, 9, 3, 64, 64},
        Shape{130, 4, 0, 10, 10}, Shape{7, 3, 2, 32, 16}, Shape{6, 2, 1, 18, 16}, Shape{9, 4, 2, 6, 4}})
    for (const int direction : {1, -1})
      for (const std::size_t misplaced : {0, 1}) {
        const std::int64_t half = turning / 2, positions = 50;
        const auto cos = random_values<Acc<T>>(positions * half, 1), sin = random_values<Acc<T>>(positions * half, 2);
        const auto position = random_indices(tokens, 3, 0, positions);
        auto q = random_values<T>(tokens * queries * head_width, 4),
             k = random_values<T>(tokens * keys * head_width, 5);
        OnGpu<Acc<T>> cos_there(cos), sin_there(sin);
        OnGpu<std::int32_t> position_there(position);
        OnGpu<T> q_there(q), k_there(k, misplaced);
        rope(gpu(), RopeHeads<T>{q_there.data(), queries, head_width}, RopeHeads<T>{k_there.data(), keys, head_width},
             position_there.data(), cos_there.data(), sin_there.data(), direction, tokens, turning);
        rope(cpu(), RopeHeads<T>{q.data(), queries, head_width}, RopeHeads<T>{k.data(), keys, head_width},
             position.data(), cos.data(), sin.data(), direction, tokens, turning);
        expect_close(q_there.values(), q, 5);
        expect_close(k_there.values(), k, 5);
      }
}

TEST(CudaRopeRows, AreThoseOfTheCpu) {
  for (const std::int64_t tokens : {0, 1, 700}) {
    const auto position = random_indices(tokens, 1, 0, 50), context = random_indices(tokens, 2, 1, 60);
    std::vector<std::int32_t> row(static_cast<std::size_t>(tokens));
    rope_rows(cpu(), position.data(), context.data(), 30, 50, row.data(), tokens);
    OnGpu<std::int32_t> position_there(position), context_there(context), row_there(tokens);
    rope_rows(gpu(), position_there.data(), context_there.data(), 30, 50, row_there.data(), tokens);
    EXPECT_EQ(row_there.values(), row);
  }
}

// The last channels of heads that are wider, and all of one.
TYPED_TEST(CudaRope, TurnsPartsOfHeadsAsTheCpuDoes) {
  using T = TypeParam;
  for (const auto [width, first, turning] : {std::array<std::int64_t, 3>{192, 128, 64}, {10, 4, 6}, {24, 0, 16}}) {
    const std::int64_t tokens = 7, heads = 3, half = turning / 2, positions = 50;
    const auto cos = random_values<Acc<T>>(positions * half, 1), sin = random_values<Acc<T>>(positions * half, 2);
    const auto position = random_indices(tokens, 3, 0, positions);
    auto q = random_values<T>(tokens * heads * width, 4), k = random_values<T>(tokens * turning, 5);
    OnGpu<Acc<T>> cos_there(cos), sin_there(sin);
    OnGpu<std::int32_t> position_there(position);
    OnGpu<T> q_there(q), k_there(k);
    rope(gpu(), RopeHeads<T>{q_there.data(), heads, width, first}, RopeHeads<T>{k_there.data(), 1},
         position_there.data(), cos_there.data(), sin_there.data(), 1, tokens, turning);
    rope(cpu(), RopeHeads<T>{q.data(), heads, width, first}, RopeHeads<T>{k.data(), 1}, position.data(), cos.data(),
         sin.data(), 1, tokens, turning);
    expect_close(q_there.values(), q, 5);
    expect_close(k_there.values(), k, 5);
  }
}

template <class T>
class CudaRopeTable : public ::testing::Test {};
using TableTypes = ::testing::Types<float, double>;
TYPED_TEST_SUITE(CudaRopeTable, TableTypes);

TYPED_TEST(CudaRopeTable, IsThatOfTheCpu) {
  using T = TypeParam;
  for (const std::int64_t positions : {0, 1, 300})
    for (const std::int64_t head_width : {2, 64}) {
      const std::int64_t n = positions * head_width / 2;
      std::vector<T> cos(static_cast<std::size_t>(n)), sin(cos.size());
      const auto frequencies = random_values<double>(head_width / 2, 1);
      rope_table(cpu(), cos.data(), sin.data(), positions, head_width / 2, frequencies.data(), 1.25);
      OnGpu<T> cos_there(n), sin_there(n);
      OnGpu<double> frequencies_there(frequencies);
      rope_table(gpu(), cos_there.data(), sin_there.data(), positions, head_width / 2, frequencies_there.data(), 1.25);
      expect_close(cos_there.values(), cos);
      expect_close(sin_there.values(), sin);
    }
}

}  // namespace
}  // namespace limbeck::kernels
