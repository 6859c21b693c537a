#include "kernels/blocks.h"

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
    constexpr std::int64_t count = 131;
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

TEST(CudaBlocks, AreMultipliedAndLookedUp) {
  constexpr std::int64_t m = 9, n = 6, k = 512, experts = 3;
  for (const BlockFormat format : {BlockFormat::Q8_0, BlockFormat::Q4_K, BlockFormat::MXFP4}) {
    const auto bytes = random_blocks(format, experts * n * k / size_of(format).elements);
    const Blocks b{format, reinterpret_cast<const std::byte*>(bytes.data())};
    OnGpu<std::uint8_t> bytes_there(bytes);
    const Blocks there{format, reinterpret_cast<const std::byte*>(bytes_there.data())};
    const auto a = random_values<float>(m * k, 1);
    OnGpu<float> a_there(a);
    std::vector<float> values(static_cast<std::size_t>(n * k));
    expand(b, n * k / size_of(format).elements, values.data());
    double greatest = 0;
    for (const float x : values) greatest = std::max(greatest, std::abs(static_cast<double>(x)));
    const double scale = 100 * greatest;

    std::vector<float> c(m * n);
    blocks_matmul(cpu(), m, n, k, a.data(), b, 0.F, c.data());
    OnGpu<float> c_there(m * n);
    blocks_matmul(gpu(), m, n, k, a_there.data(), there, 0.F, c_there.data());
    expect_close(c_there.values(), c, scale);

    const std::vector<std::int64_t> offsets = {0, 4, 4, 9};
    OnGpu<std::int64_t> offsets_there(offsets);
    blocks_grouped_matmul(cpu(), experts, n, k, offsets.data(), a.data(), b, 0.F, c.data());
    blocks_grouped_matmul(gpu(), experts, n, k, offsets_there.data(), a_there.data(), there, 0.F, c_there.data());
    expect_close(c_there.values(), c, scale);

    const std::vector<std::int32_t> tokens = {2, 0, 17, 5, 1};  // the table here is rows 1 to 5
    std::vector<float> y(tokens.size() * k);
    blocks_embedding(cpu(), tokens.data(), b, y.data(), std::ssize(tokens), k, 1, 5);
    OnGpu<std::int32_t> tokens_there(tokens);
    OnGpu<float> y_there(std::ssize(y));
    blocks_embedding(gpu(), tokens_there.data(), there, y_there.data(), std::ssize(tokens), k, 1, 5);
    expect_same(y_there.values(), y);
  }
}

}  // namespace
}  // namespace limbeck::kernels
