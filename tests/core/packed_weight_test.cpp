#include "core/ops/packed_weight.h"

#include <gtest/gtest.h>

#include <vector>

#include "core/ops/product.h"

namespace limbeck::core {
namespace {

constexpr std::int64_t rows = 3, out = 40, in = 70;

class PackedWeight : public ::testing::Test {
 protected:
  PackedWeight() {
    for (std::int64_t i = 0; i < rows * in; ++i) x.mutable_data<bf16>()[i] = bf16(static_cast<float>(i % 13 - 6));
    write(1);
  }
  void write(float scale) {
    for (std::int64_t i = 0; i < out * in; ++i)
      weight.mutable_data<float>()[i] = scale * static_cast<float>(i % 11 - 5);
  }
  std::vector<float> product_now() {
    Tensor y = Tensor::empty(memory, DType::F32, {rows, out});
    product("test", x, Transpose::Yes, weight, 0, y);
    return host_values<float>(y);
  }
  bool is_packed() { return packed_weight(weight, Transpose::Yes).packed.defined(); }

  MemoryPtr memory = Memory::cpu(1);
  Tensor x = Tensor::empty(memory, DType::BF16, {rows, in});
  Tensor weight = Tensor::empty(memory, DType::F32, {out, in});
};

TEST_F(PackedWeight, IsKeptWhenItIsWantedForTheThirdTime) {
  EXPECT_FALSE(is_packed());
  EXPECT_FALSE(is_packed());
  EXPECT_TRUE(is_packed());
  const void* first = packed_weight(weight, Transpose::Yes).packed.raw();
  EXPECT_EQ(packed_weight(weight, Transpose::Yes).packed.raw(), first);
  EXPECT_FALSE(packed_weight(weight, Transpose::No).packed.defined());  // counts apart
}

// Such as one of a mapped file, which may be more than memory holds.
TEST_F(PackedWeight, OfAMappedFileIsNeverKept) {
  const std::vector<float> right = product_now();
  const std::vector<float> lent = host_values<float>(weight);
  weight = Tensor(
      std::make_shared<Storage>(memory, weight.bytes(), const_cast<float*>(lent.data()), std::make_shared<int>(0)), 0,
      DType::F32, {out, in});
  expect_uses(weight, Transpose::Yes);
  for (int use = 0; use < 5; ++use) {
    EXPECT_FALSE(is_packed()) << use;
    EXPECT_EQ(product_now(), right);
  }
}

TEST_F(PackedWeight, IsGivenBackWhenItIsWritten) {
  const std::int64_t before = memory->statistics().used_bytes;
  expect_uses(weight, Transpose::Yes);
  EXPECT_TRUE(is_packed());
  EXPECT_GT(memory->statistics().used_bytes, before);
  write(2);
  EXPECT_FALSE(is_packed());
  EXPECT_EQ(memory->statistics().used_bytes, before);
}

TEST_F(PackedWeight, ProductsAreOfWhatTheWeightHolds) {
  const std::vector<float> once = product_now();
  std::vector<float> twice = once;
  for (float& value : twice) value *= 2;  // sums of small whole numbers are exact
  for (int i = 0; i < 4; ++i) EXPECT_EQ(product_now(), once) << i;
  write(2);
  for (int i = 0; i < 4; ++i) EXPECT_EQ(product_now(), twice) << i;
}

}  // namespace
}  // namespace limbeck::core
