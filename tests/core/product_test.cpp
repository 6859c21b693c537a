// Products with weights in blocks (kernels/blocks.h), whose values are those of expanded ones.
#include "core/ops/product.h"

#include <gtest/gtest.h>

#include <vector>

namespace limbeck::core {
namespace {

constexpr std::int64_t rows = 12, out = 6, in = 64;

TEST(DTypes, OfBlocksAreAsLargeAsTheBlocks) {
  int formats = 0;
  for (int i = 0; i <= static_cast<int>(DType::IQ4_XS); ++i) {
    const auto dtype = static_cast<DType>(i);
    const auto format = block_format(dtype);
    if (!format) continue;
    ++formats;
    EXPECT_EQ(info(dtype).block_bytes, kernels::size_of(*format).bytes) << name_of(dtype);
    EXPECT_EQ(info(dtype).block_elements, kernels::size_of(*format).elements) << name_of(dtype);
  }
  EXPECT_EQ(formats, 13);
}

class ProductOfBlocks : public ::testing::TestWithParam<DType> {
 protected:
  /// Whole numbers of scale 1, so that sums are exact in any order.
  ProductOfBlocks() {
    std::byte* block = weight.mutable_raw();
    for (std::int64_t i = 0; i < out * in / 32; ++i, block += info(DType::Q8_0).block_bytes) {
      block[0] = std::byte{0x00};
      block[1] = std::byte{0x3c};
      for (int j = 0; j < 32; ++j) {
        const auto value = static_cast<std::int8_t>((i * 32 + j) % 7 - 3);
        block[2 + j] = static_cast<std::byte>(value);
        values.push_back(value);
      }
    }
  }
  Tensor activations(std::int64_t columns) const {
    Tensor x = Tensor::empty(memory, DType::F32, {rows, columns});
    for (std::int64_t i = 0; i < rows * columns; ++i) x.mutable_data<float>()[i] = static_cast<float>(i % 5 - 2);
    return GetParam() == DType::F32 ? x : x.to(GetParam());
  }

  MemoryPtr memory = Memory::cpu(1);
  Tensor weight = Tensor::empty(memory, DType::Q8_0, {out, in});
  std::vector<float> values;
};

TEST_P(ProductOfBlocks, IsRightInBothDirections) {
  const Tensor x = activations(in), dy = activations(out);
  Tensor y = Tensor::empty(memory, GetParam(), {rows, out}), dx = Tensor::empty(memory, GetParam(), {rows, in});
  product("test", x, Transpose::Yes, weight, 0, y);
  product("test", dy, Transpose::No, weight, 0, dx);
  const auto wide = [](const Tensor& t) { return host_values<float>(t.dtype() == DType::F32 ? t : t.to(DType::F32)); };
  const auto x_values = wide(x), dy_values = wide(dy), y_values = wide(y), dx_values = wide(dx);
  for (std::int64_t r = 0; r < rows; ++r) {
    for (std::int64_t o = 0; o < out; ++o) {
      float sum = 0;
      for (std::int64_t i = 0; i < in; ++i) sum += x_values[r * in + i] * values[o * in + i];
      EXPECT_EQ(y_values[r * out + o], sum);
    }
    for (std::int64_t i = 0; i < in; ++i) {
      float sum = 0;
      for (std::int64_t o = 0; o < out; ++o) sum += dy_values[r * out + o] * values[o * in + i];
      EXPECT_EQ(dx_values[r * in + i], sum);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Activations, ProductOfBlocks, ::testing::Values(DType::F32, DType::BF16));

}  // namespace
}  // namespace limbeck::core
