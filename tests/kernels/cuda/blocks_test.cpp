#include "kernels/blocks.h"

#include <algorithm>
#include <array>
#include <random>

#include "tests/kernels/cuda/on_gpu.h"

namespace limbeck::kernels {
namespace {

using namespace limbeck::testing;

constexpr BlockFormat formats[] = {BlockFormat::F16,    BlockFormat::Q4_0, BlockFormat::Q4_1, BlockFormat::Q5_0,
                                   BlockFormat::Q5_1,   BlockFormat::Q8_0, BlockFormat::Q2_K, BlockFormat::Q3_K,
                                   BlockFormat::Q4_K,   BlockFormat::Q5_K, BlockFormat::Q6_K, BlockFormat::IQ4_NL,
                                   BlockFormat::IQ4_XS, BlockFormat::MXFP4};

/// Any bytes with scales that are finite: no half has all bits of its exponent.
std::vector<std::uint8_t> random_blocks(BlockFormat format, std::int64_t count) {
  std::mt19937 engine(7);
  std::vector<std::uint8_t> bytes(static_cast<std::size_t>(count * size_of(format).bytes));
  for (std::uint8_t& b : bytes) b = static_cast<std::uint8_t>(engine() & 0xbfU);
  return bytes;
}

TEST(CudaBlocks, AreTheValuesOfTheHostBitByBit) {
  for (const BlockFormat format : formats) {
    SCOPED_TRACE(static_cast<int>(format));
    for (const std::int64_t count : {0, 1, 131}) {
      const auto bytes = random_blocks(format, count);
      const std::int64_t elements = size_of(format).elements * count;
      std::vector<float> expected(static_cast<std::size_t>(elements));
      expand({format, reinterpret_cast<const std::byte*>(bytes.data())}, count, expected.data());
      OnGpu<std::uint8_t> there(bytes);
      OnGpu<float> values(elements);
      expand_blocks(gpu(), {format, reinterpret_cast<const std::byte*>(there.data())}, count, values.data());
      expect_same(values.values(), expected);
    }
  }
}

/// Experts' matrices [n,k], there and here.
struct Weights {
  std::vector<std::uint8_t> bytes;
  OnGpu<std::uint8_t> bytes_there{bytes};
  Blocks here, there;
  double greatest = 0;

  Weights(BlockFormat format, std::int64_t experts, std::int64_t n, std::int64_t k)
      : bytes(random_blocks(format, experts * n * k / size_of(format).elements)),
        here{format, reinterpret_cast<const std::byte*>(bytes.data())},
        there{format, reinterpret_cast<const std::byte*>(bytes_there.data())} {
    std::vector<float> values(static_cast<std::size_t>(experts * n * k));
    expand(here, experts * n * k / size_of(format).elements, values.data());
    for (const float x : values) greatest = std::max(greatest, std::abs(static_cast<double>(x)));
  }
};

template <class T, class C>
void check_products(BlockFormat format) {
  for (const auto& [m, n, k] : {std::array<std::int64_t, 3>{0, 6, 512}, {1, 1, 256}, {9, 6, 512}, {33, 130, 768}})
    for (const float beta : {0.F, 1.F}) {
      SCOPED_TRACE(m);
      Weights b(format, 1, n, k);
      const auto a = random_values<T>(m * k, 1);
      OnGpu<T> a_there(a);
      std::vector<C> c = random_values<C>(m * n, 2);
      OnGpu<C> c_there(c);
      blocks_matmul(cpu(), m, n, k, a.data(), b.here, beta, c.data());
      blocks_matmul(gpu(), m, n, k, a_there.data(), b.there, beta, c_there.data());
      expect_close(c_there.values(), c, 100 * b.greatest);
    }
}

// One expert has all rows, and none; others share them.
template <class T>
void check_groups(BlockFormat format) {
  constexpr std::int64_t n = 6, k = 512, experts = 3;
  Weights b(format, experts, n, k);
  for (const std::vector<std::int64_t>& offsets :
       {std::vector<std::int64_t>{0, 0, 0, 0}, {0, 0, 1, 1}, {0, 4, 4, 9}, {0, 0, 70, 70}}) {
    const std::int64_t m = offsets.back();
    SCOPED_TRACE(m);
    OnGpu<std::int64_t> offsets_there(offsets);
    const auto rows = random_values<T>(m * k, 1);
    OnGpu<T> rows_there(rows), y_there(m * n);
    std::vector<T> y(static_cast<std::size_t>(m * n));
    blocks_grouped_matmul(cpu(), experts, n, k, offsets.data(), rows.data(), b.here, 0.F, y.data());
    blocks_grouped_matmul(gpu(), experts, n, k, offsets_there.data(), rows_there.data(), b.there, 0.F, y_there.data());
    expect_close(y_there.values(), y, 100 * b.greatest);
  }
}

template <class T>
void check_embedding(BlockFormat format) {
  constexpr std::int64_t k = 512;
  Weights b(format, 1, 5, k);
  for (const std::vector<std::int32_t>& tokens : {std::vector<std::int32_t>{}, {3}, {2, 0, 17, 5, 1}}) {
    std::vector<T> y(tokens.size() * k);  // the table here is rows 1 to 5
    blocks_embedding(cpu(), tokens.data(), b.here, y.data(), std::ssize(tokens), k, 1, 5);
    OnGpu<std::int32_t> tokens_there(tokens);
    OnGpu<T> y_there(std::ssize(y));
    blocks_embedding(gpu(), tokens_there.data(), b.there, y_there.data(), std::ssize(tokens), k, 1, 5);
    expect_same(y_there.values(), y);
  }
}

TEST(CudaBlocks, AreMultipliedAndLookedUp) {
  for (const BlockFormat format : {BlockFormat::Q8_0, BlockFormat::Q4_K, BlockFormat::MXFP4}) {
    SCOPED_TRACE(static_cast<int>(format));
    check_products<float, float>(format);
    check_products<bf16, bf16>(format);
    check_products<bf16, float>(format);
    check_groups<float>(format);
    check_groups<bf16>(format);
    check_embedding<float>(format);
    check_embedding<bf16>(format);
  }
}

}  // namespace
}  // namespace limbeck::kernels
