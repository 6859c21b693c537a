#include "data/models/gguf_blocks.h"

#include <gmock/gmock.h>

#include <bit>
#include <cmath>
#include <limits>
#include <vector>

#include "data/models/gguf.h"
#include "tests/support/teacher_file.h"
#include "tests/support/temporary_folder.h"

namespace limbeck::data {
namespace {

using core::DType;
using testing::error_of;
using testing::golden_path;
using ::testing::HasSubstr;

/// The same bits, or both no number.
bool is_same(float a, float b) {
  return std::bit_cast<std::uint32_t>(a) == std::bit_cast<std::uint32_t>(b) || (std::isnan(a) && std::isnan(b));
}

std::vector<float> values_of(const GgufFile& file, const std::string& name) {
  const GgufTensor& tensor = file.tensors().at(name);
  std::vector<float> values(static_cast<std::size_t>(tensor.shape.numel()));
  file.read(tensor, 0, tensor.shape.numel(), values.data());
  return values;
}

TEST(GgufBlocks, EveryFormatIsReadBitForBitFromAnyPlace) {
  const GgufFile file(golden_path("gguf/blocks.gguf"));
  for (const std::string format : {"F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K",
                                   "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS", "MXFP4"}) {
    const GgufTensor& tensor = file.tensors().at(format);
    const std::vector<float> expected = values_of(file, format + ".values");
    const auto size = static_cast<std::int64_t>(expected.size());
    ASSERT_EQ(tensor.shape, file.tensors().at(format + ".values").shape);
    ASSERT_GE(size, 384) << format;
    // Starts in every place of a block, and lengths that end inside, at and behind a block.
    for (std::int64_t first = 0; first < size; first += first < 300 ? 1 : 31)
      for (const std::int64_t count : {std::int64_t{0}, std::int64_t{1}, std::int64_t{31}, std::int64_t{32},
                                       std::int64_t{33}, std::int64_t{256}, size - first}) {
        if (first + count > size) continue;
        std::vector<float> values(static_cast<std::size_t>(count), -1.0F);
        file.read(tensor, first, count, values.data());
        for (std::int64_t i = 0; i < count; ++i)
          ASSERT_TRUE(is_same(values[i], expected[first + i]))
              << format << " " << first + i << ": " << values[i] << ", expected " << expected[first + i];
      }
    float one = 0;
    EXPECT_THROW(file.read(tensor, size, 1, &one), core::Error);
    EXPECT_THROW(file.read(tensor, -1, 1, &one), core::Error);
    EXPECT_THROW(file.read(tensor, 0, size + 1, &one), core::Error);
  }
}

TEST(GgufBlocks, OtherDtypesAreRefusedByName) {
  float one = 0;
  const std::byte bytes[8] = {};
  EXPECT_THAT(error_of([&] { dequantize(DType::I64, bytes, 0, 1, &one); }), HasSubstr("int64"));
}

// What is written has the bits that the reference writes.
TEST(GgufBlocks, WrittenFormatsAreTheReferencesBits) {
  const GgufFile file(golden_path("gguf/blocks.gguf"));
  const std::string bytes = testing::read_file(golden_path("gguf/blocks.gguf"));
  const std::vector<float> input = values_of(file, "input");
  for (const auto& [name, dtype] : {std::pair{"input", DType::F32},
                                    {"input.F16", DType::F16},
                                    {"input.BF16", DType::BF16},
                                    {"input.Q8_0", DType::Q8_0}}) {
    const GgufTensor& tensor = file.tensors().at(name);
    ASSERT_EQ(tensor.dtype, dtype);
    std::string stored(static_cast<std::size_t>(tensor.bytes), '\0');
    quantize(dtype, input, reinterpret_cast<std::byte*>(stored.data()));
    const auto offset = static_cast<std::size_t>(tensor.offset);
    for (std::size_t i = 0; i < stored.size(); ++i) ASSERT_EQ(stored[i], bytes[offset + i]) << name << " byte " << i;
  }
}

TEST(GgufBlocks, ValuesThatDoNotFitAreRefused) {
  std::vector<float> values(32, 1.0F);
  std::vector<std::byte> out(128);
  const auto refusal = [&](DType dtype, float value) {
    values[7] = value;
    return error_of([&] { quantize(dtype, values, out.data()); });
  };
  for (const DType dtype : {DType::F32, DType::F16, DType::BF16, DType::Q8_0})
    for (const float value : {HUGE_VALF, -HUGE_VALF, std::numeric_limits<float>::quiet_NaN()})
      EXPECT_THAT(refusal(dtype, value), HasSubstr(std::string(core::name_of(dtype))));
  EXPECT_THAT(refusal(DType::F16, 65520.0F), HasSubstr("65520"));
  EXPECT_THAT(refusal(DType::F16, -65520.0F), HasSubstr("-65520"));
  EXPECT_EQ(refusal(DType::F16, 65519.0F), "");
  EXPECT_THAT(refusal(DType::Q8_0, 65520.0F * 127), HasSubstr("Q8_0"));
  EXPECT_EQ(refusal(DType::Q8_0, 65519.0F * 127), "");
  EXPECT_THAT(refusal(DType::BF16, std::numeric_limits<float>::max()), HasSubstr("bfloat16"));
  EXPECT_EQ(refusal(DType::BF16, -0x1.fep127F), "");
  EXPECT_EQ(refusal(DType::F32, std::numeric_limits<float>::max()), "");
  values.resize(33, 1.0F);
  EXPECT_THAT(refusal(DType::Q8_0, 1), HasSubstr("33"));
  EXPECT_THAT(refusal(DType::Q4_0, 1), HasSubstr("Q4_0"));
}

}  // namespace
}  // namespace limbeck::data
