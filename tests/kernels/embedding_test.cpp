#include "kernels/embedding.h"

#include "tests/support/bf16_values.h"

namespace limbeck::kernels {
namespace {

using limbeck::testing::all_as, limbeck::testing::expect_rounded, limbeck::testing::random_bf16;

constexpr std::int64_t first = 3, num_rows = 6, tokens = 7;
const std::vector<std::int32_t> token{3, 8, 2, 5, 5, 9, 4};  // 2 and 9 are not in the table

/// A table in which a bfloat16 is not exact where W is float.
template <class W, class T>
void expect_rows(std::int64_t width) {
  std::vector<W> table;
  for (const bf16 x : random_bf16(num_rows * width, 1)) table.push_back(as<W>(as<float>(x) * 1.001F));
  std::vector<T> y(static_cast<std::size_t>(tokens * width), as<T>(77.F));
  embedding(make_cpu(2), token.data(), table.data(), y.data(), tokens, width, first, num_rows);
  for (std::int64_t t = 0; t < tokens; ++t)
    for (std::int64_t c = 0; c < width; ++c) {
      const std::int64_t row = token[static_cast<std::size_t>(t)] - first;
      const T expected = row < 0 || row >= num_rows ? T{} : as<T>(table[static_cast<std::size_t>(row * width + c)]);
      ASSERT_EQ(as<double>(y[static_cast<std::size_t>(t * width + c)]), as<double>(expected)) << t << ' ' << c;
    }
}

TEST(EmbeddingKernel, RowsOfEitherTypeAsEither) {
  for (const std::int64_t width : {1, 7, 65}) {
    expect_rows<float, float>(width);
    expect_rows<float, bf16>(width);
    expect_rows<bf16, float>(width);
    expect_rows<bf16, bf16>(width);
    expect_rows<double, double>(width);
  }
}

// Token 5 comes thousands of times: a sum in bfloat16 would stop growing at 256 times an addend.
TEST(EmbeddingKernel, TheGradientOfBfloat16IsSummedInFloat) {
  constexpr std::int64_t many = 3000, width = 7;
  std::vector<std::int32_t> same(many, 5);
  same[10] = 4;
  same[20] = 9;
  const auto dy = random_bf16(many * width, 2);
  for (const bool add : {false, true}) {
    std::vector<float> dtable(num_rows * width, 1);
    std::vector<double> expected(num_rows * width, 1);
    embedding_gradient(make_cpu(2), same.data(), dy.data(), add, dtable.data(), many, width, first, num_rows);
    embedding_gradient(make_cpu(1), same.data(), all_as<double>(dy).data(), add, expected.data(), many, width, first,
                       num_rows);
    EXPECT_EQ(expected[0], add ? 1 : 0);                     // no token is of this row
    expect_rounded(dtable, expected, many * 200 * 0x1p-24);  // no partial sum is beyond 200
  }
}

}  // namespace
}  // namespace limbeck::kernels
