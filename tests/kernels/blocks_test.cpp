// Products with weights in blocks against float64 sums of the expanded values. That those are ggml's:
// tests/data/models/gguf_blocks_test.cpp.
#include "kernels/blocks.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>
#include <vector>

#include "kernels/cpu/cpu_cache.h"
#include "kernels/half.h"

namespace limbeck::kernels {
namespace {

constexpr BlockFormat formats[] = {BlockFormat::F16,    BlockFormat::Q4_0, BlockFormat::Q4_1, BlockFormat::Q5_0,
                                   BlockFormat::Q5_1,   BlockFormat::Q8_0, BlockFormat::Q2_K, BlockFormat::Q3_K,
                                   BlockFormat::Q4_K,   BlockFormat::Q5_K, BlockFormat::Q6_K, BlockFormat::IQ4_NL,
                                   BlockFormat::IQ4_XS, BlockFormat::MXFP4};

/// Where the halves of a block are, from llama.cpp's ggml-common.h.
std::vector<std::size_t> halves(BlockFormat format) {
  switch (format) {
    case BlockFormat::Q4_1:
    case BlockFormat::Q5_1:
    case BlockFormat::Q4_K:
    case BlockFormat::Q5_K:
      return {0, 2};
    case BlockFormat::Q2_K:
      return {80, 82};
    case BlockFormat::Q3_K:
      return {108};
    case BlockFormat::Q6_K:
      return {208};
    default:
      return {0};
  }
}

void put_half(std::vector<std::byte>& bytes, std::size_t at, std::uint16_t half) {
  std::memcpy(&bytes[at], &half, sizeof half);
}

/// Random blocks that begin on no boundary, and their values.
struct Matrix {
  std::vector<std::byte> bytes;
  Blocks blocks;
  std::vector<float> values;
};
Matrix random_matrix(BlockFormat format, std::int64_t elements, unsigned seed) {
  const BlockSize size = size_of(format);
  const std::int64_t count = elements / size.elements;
  std::mt19937 engine(seed);
  Matrix m;
  m.bytes.resize(static_cast<std::size_t>(count * size.bytes + 1));
  for (std::byte& b : m.bytes) b = static_cast<std::byte>(engine());
  for (std::int64_t i = 0; i < count; ++i)
    for (const std::size_t at : halves(format)) {
      if (format == BlockFormat::MXFP4) {  // a power of two: 1/64 to 1
        m.bytes[1 + static_cast<std::size_t>(i * size.bytes)] = static_cast<std::byte>(121 + engine() % 7);
        continue;
      }
      const float x = 0.01F + static_cast<float>(engine() % 1000) / 1000;
      put_half(m.bytes, 1 + static_cast<std::size_t>(i * size.bytes) + at, half_from_float(x));
    }
  m.blocks = {format, m.bytes.data() + 1};
  m.values.resize(static_cast<std::size_t>(elements));
  expand(m.blocks, count, m.values.data());
  return m;
}

template <class T>
std::vector<T> random_values(std::int64_t n, unsigned seed) {
  std::mt19937 engine(seed);
  std::vector<T> values(static_cast<std::size_t>(n));
  for (T& x : values) x = as<T>(static_cast<float>(engine()) / 0x1p31F - 1);
  return values;
}

/// c = a b^T + beta before, wrong by sums in float32 and, of bfloat16, one rounding of each factor and of the result.
template <class T, class C>
void expect_product(std::int64_t m, std::int64_t n, std::int64_t k, const T* a, const float* b, float beta,
                    const C* before, const C* c) {
  for (std::int64_t i = 0; i < m; ++i)
    for (std::int64_t j = 0; j < n; ++j) {
      double sum = beta == 0 ? 0 : beta * as<double>(before[i * n + j]), magnitude = std::abs(sum);
      for (std::int64_t p = 0; p < k; ++p) {
        const float weight = std::is_same_v<T, bf16> ? static_cast<float>(bf16(b[j * k + p])) : b[j * k + p];
        sum += as<double>(a[i * k + p]) * weight;
        magnitude += std::abs(as<double>(a[i * k + p]) * weight);
      }
      const double rounding = std::is_same_v<C, bf16> ? std::abs(sum) * 0x1p-8 : 0;
      ASSERT_NEAR(as<double>(c[i * n + j]), sum, rounding + magnitude * 2e-6) << i << "," << j << " of " << m;
    }
}

class BlocksOf : public ::testing::TestWithParam<BlockFormat> {};

TEST_P(BlocksOf, ProductsAreThoseOfTheValues) {
  const auto check = [](const Matrix& b, std::int64_t m, std::int64_t n, std::int64_t k, float beta, auto t, auto out) {
    using T = decltype(t);
    using C = decltype(out);
    const std::vector<T> a = random_values<T>(m * k, 2);
    std::vector<C> c =
        beta == 0 ? std::vector<C>(static_cast<std::size_t>(m * n), as<C>(NAN)) : random_values<C>(m * n, 3);
    const std::vector<C> before = c;
    blocks_matmul(make_cpu(2), m, n, k, a.data(), b.blocks, beta, c.data());
    expect_product(m, n, k, a.data(), b.values.data(), beta, before.data(), c.data());
  };
  const std::int64_t block = std::max<std::int64_t>(size_of(GetParam()).elements, 32);
  for (const auto& [n, k] : {std::pair<std::int64_t, std::int64_t>{37, 256}, {3, 2304}, {3, 4352}, {5, block * 3}}) {
    const Matrix b = random_matrix(GetParam(), n * k, 1);
    for (const std::int64_t m : {1, 4, 7, 40})
      for (const float beta : {0.F, 0.5F}) {
        check(b, m, n, k, beta, float(), float());
        check(b, m, n, k, beta, bf16(), float());
        check(b, m, n, k, beta, bf16(), bf16());
      }
  }
}

// A row of the identity picks a value of each row, bit for bit: whatever stands beside it is multiplied with 0.
TEST_P(BlocksOf, FewRowsAreMultipliedWithTheValuesThemselves) {
  const std::int64_t n = 3, k = 2 * std::max<std::int64_t>(size_of(GetParam()).elements, 32);
  const Matrix b = random_matrix(GetParam(), n * k, 9);
  std::int64_t m = 0;
  for (std::int64_t first = 0; first < k; first += m) {
    m = std::min(m % 8 + 1, k - first);  // 1 to 8 rows
    std::vector<float> a(static_cast<std::size_t>(m * k)), c(static_cast<std::size_t>(m * n), NAN);
    for (std::int64_t i = 0; i < m; ++i) a[static_cast<std::size_t>(i * k + first + i)] = 1;
    blocks_matmul(make_cpu(1), m, n, k, a.data(), b.blocks, 0, c.data());
    for (std::int64_t i = 0; i < m; ++i)
      for (std::int64_t j = 0; j < n; ++j)
        ASSERT_EQ(c[static_cast<std::size_t>(i * n + j)], b.values[static_cast<std::size_t>(j * k + first + i)])
            << "value " << first + i << " of row " << j << ", " << m << " rows";
  }
}

TEST_P(BlocksOf, ARowOfFewHasTheSameBitsAloneAndOnAnyThreads) {
  constexpr std::int64_t n = 37, k = 4352;  // enough for a thread each
  const Matrix b = random_matrix(GetParam(), n * k, 10);
  const std::vector<float> a = random_values<float>(8 * k, 11);
  std::vector<float> alone(8 * n);
  for (std::int64_t i = 0; i < 8; ++i)
    blocks_matmul(make_cpu(1), 1, n, k, a.data() + i * k, b.blocks, 0, alone.data() + i * n);
  for (const int threads : {1, 3})
    for (const std::int64_t m : {2, 3, 8}) {
      std::vector<float> c(static_cast<std::size_t>(m * n));
      blocks_matmul(make_cpu(threads), m, n, k, a.data(), b.blocks, 0, c.data());
      for (std::size_t i = 0; i < c.size(); ++i) ASSERT_EQ(c[i], alone[i]) << threads << " threads, " << m << " rows";
    }
}

TEST_P(BlocksOf, GroupsHaveOneEach) {
  constexpr std::int64_t groups = 3, n = 5, k = 256;
  const std::int64_t offsets[] = {1, 3, 3, 15};
  const Matrix b = random_matrix(GetParam(), groups * n * k, 4);
  const auto check = [&](auto t) {
    using T = decltype(t);
    const std::vector<T> rows = random_values<T>(16 * k, 5);
    std::vector<T> y(16 * n, as<T>(7.F));
    blocks_grouped_matmul(make_cpu(2), groups, n, k, offsets, rows.data(), b.blocks, 0, y.data());
    for (std::int64_t e = 0; e < groups; ++e)
      expect_product<T, T>(offsets[e + 1] - offsets[e], n, k, rows.data() + offsets[e] * k, b.values.data() + e * n * k,
                           0, nullptr, y.data() + offsets[e] * n);
    for (const std::int64_t row : {0, 15})
      for (std::int64_t j = 0; j < n; ++j) EXPECT_EQ(as<float>(y[static_cast<std::size_t>(row * n + j)]), 7) << row;
  };
  check(float());
  check(bf16());
}

TEST_P(BlocksOf, RowsOfATableAreItsValues) {
  constexpr std::int64_t rows = 4, width = 2304;
  const Matrix table = random_matrix(GetParam(), rows * width, 6);
  const std::vector<std::int32_t> tokens = {12, 10, 9, 13, 14};  // the table is of 10 to 13
  std::vector<float> y(tokens.size() * width, 1);
  std::vector<bf16> rounded(y.size());
  blocks_embedding(make_cpu(2), tokens.data(), table.blocks, y.data(), std::ssize(tokens), width, 10, rows);
  blocks_embedding(make_cpu(2), tokens.data(), table.blocks, rounded.data(), std::ssize(tokens), width, 10, rows);
  for (std::size_t t = 0; t < tokens.size(); ++t)
    for (std::size_t i = 0; i < width; ++i) {
      const std::int32_t row = tokens[t] - 10;
      const float expected = row < 0 || row >= rows ? 0 : table.values[static_cast<std::size_t>(row) * width + i];
      ASSERT_EQ(y[t * width + i], expected) << t;
      ASSERT_EQ(rounded[t * width + i].bits, bf16(expected).bits) << t;
    }
}

TEST_P(BlocksOf, AScaleThatIsNoNumberIsFound) {
  if (GetParam() == BlockFormat::MXFP4) return;
  const BlockSize size = size_of(GetParam());
  const std::int64_t count = 1024 / size.elements;
  for (const std::uint16_t half : std::initializer_list<std::uint16_t>{0x7c00, 0xfc00, 0x7e01})
    for (const std::size_t at : halves(GetParam())) {
      Matrix m = random_matrix(GetParam(), 1024, 8);
      EXPECT_EQ(first_not_finite(m.blocks, count), count);
      put_half(m.bytes, 1 + static_cast<std::size_t>((count - 1) * size.bytes) + at, half);
      EXPECT_EQ(first_not_finite(m.blocks, count), count - 1) << at;
    }
}

// OCP Microscaling Formats 1.0: E8M0 255 is NaN. The largest value, 6, is times 2^(e - 127).
TEST(Blocks, AScaleOfMxfp4WhoseValuesAreInfiniteIsFound) {
  for (const auto& [scale, is_finite] : {std::pair{0, true}, {252, true}, {253, false}, {255, false}}) {
    std::vector<std::byte> bytes(2 * 17, std::byte{0x77});
    bytes[17] = static_cast<std::byte>(scale);
    EXPECT_EQ(first_not_finite({BlockFormat::MXFP4, bytes.data()}, 2), is_finite ? 2 : 1) << scale;
    float values[64];
    expand({BlockFormat::MXFP4, bytes.data()}, 2, values);
    if (is_finite) {
      EXPECT_EQ(values[63], std::ldexp(6.0F, scale - 127));
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Formats, BlocksOf, ::testing::ValuesIn(formats),
                         [](const auto& test) { return std::to_string(static_cast<int>(test.param)); });

}  // namespace
}  // namespace limbeck::kernels
