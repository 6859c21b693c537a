#include "kernels/embedding.h"

#include "tests/kernels/cuda/on_gpu.h"

namespace limbeck::kernels {
namespace {

using namespace limbeck::testing;

struct Shape {
  std::int64_t tokens, width, first, rows, vocabulary;
};
// Tokens beyond the rows that are here, before and behind them; a table of one row; more rows than one pass sorts by.
const std::vector<Shape> shapes = {{0, 8, 0, 5, 5},          {1, 1, 0, 1, 1},      {70, 7, 0, 5, 5},
                                   {33, 64, 10, 20, 50},     {200, 12, 0, 1, 1},   {64, 16, 0, 3000, 3000},
                                   {2500, 3, 5, 2000, 2010}, {40, 2000, 0, 10, 10}};

template <class Types>
class CudaEmbedding : public ::testing::Test {};
using Pairs = ::testing::Types<std::pair<float, float>, std::pair<float, bf16>, std::pair<bf16, float>,
                               std::pair<bf16, bf16>, std::pair<double, double>>;
TYPED_TEST_SUITE(CudaEmbedding, Pairs);

TYPED_TEST(CudaEmbedding, RowsAreThoseOfTheCpu) {
  using W = typename TypeParam::first_type;
  using T = typename TypeParam::second_type;
  for (const auto [tokens, width, first, rows, vocabulary] : shapes)
    for (const std::size_t misplaced : {0, 1}) {
      const auto token = random_indices(tokens, 1, 0, vocabulary);
      const auto table = random_values<W>(rows * width, 2);
      std::vector<T> y(static_cast<std::size_t>(tokens * width));
      embedding(cpu(), token.data(), table.data(), y.data(), tokens, width, first, rows);
      OnGpu<std::int32_t> token_there(token);
      OnGpu<W> table_there(table, misplaced);
      OnGpu<T> y_there(tokens * width);
      embedding(gpu(), token_there.data(), table_there.data(), y_there.data(), tokens, width, first, rows);
      expect_same(y_there.values(), y);
    }
}

template <class T>
class CudaEmbeddingGradient : public ::testing::Test {};
using Types = ::testing::Types<float, double, bf16>;
TYPED_TEST_SUITE(CudaEmbeddingGradient, Types);

// In the order of the tokens, as on the CPU: the same bits.
TYPED_TEST(CudaEmbeddingGradient, HasTheBitsOfTheCpu) {
  using T = TypeParam;
  for (const auto [tokens, width, first, rows, vocabulary] : shapes)
    for (const bool add : {false, true}) {
      const auto token = random_indices(tokens, 1, 0, vocabulary);
      const auto dy = random_values<T>(tokens * width, 2);
      auto dtable = random_values<Acc<T>>(rows * width, 3);
      OnGpu<std::int32_t> token_there(token);
      OnGpu<T> dy_there(dy);
      OnGpu<Acc<T>> dtable_there(dtable);
      embedding_gradient(cpu(), token.data(), dy.data(), add, dtable.data(), tokens, width, first, rows);
      embedding_gradient(gpu(), token_there.data(), dy_there.data(), add, dtable_there.data(), tokens, width, first,
                         rows);
      expect_same(dtable_there.values(), dtable);
    }
}

}  // namespace
}  // namespace limbeck::kernels
