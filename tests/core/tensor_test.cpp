#include "core/tensor.h"

#include <gmock/gmock.h>

#include <cmath>
#include <limits>

#include "tests/support/tensors.h"

namespace limbeck::core {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::tensor;
using ::testing::ThrowsMessage;

const auto memory = Memory::cpu(1);

TEST(Tensor, ViewsShareStorageAndVersion) {
  Tensor x = tensor<float>(memory, {3, 2}, {1, 2, 3, 4, 5, 6});
  const std::uint64_t version = x.version();
  Tensor row = x.rows(1, 1).reshape({2});
  EXPECT_THAT(host_values<float>(row), ElementsAre(3, 4));
  row.mutable_data<float>()[0] = 30;
  EXPECT_EQ(x.data<float>()[2], 30);
  EXPECT_GT(x.version(), version);
  EXPECT_FALSE(x.is_sole_owner());
  Tensor copy = x.clone();
  copy.fill_zero();
  EXPECT_EQ(x.data<float>()[2], 30);
  EXPECT_EQ(x.rows(3, 0).numel(), 0);
}

TEST(Tensor, Conversions) {
  const Tensor x = tensor<float>(memory, {4}, {1, 1.00390625F, -3.14159274F, 1e30F});
  const Tensor narrow = x.to(DType::BF16).to(DType::F32);
  EXPECT_THAT(host_values<float>(narrow), ElementsAre(1, 1, -3.140625F, ::testing::FloatNear(1e30F, 4e27F)))
      << "half way rounds to even";
  EXPECT_THAT(host_values<double>(x.to(DType::F64)), ElementsAre(1, 1.00390625, -3.1415927410125732, 1e30F));
  EXPECT_EQ(x.to(DType::F64).to(DType::F32).data<float>()[2], x.data<float>()[2]);
  const float nan = std::numeric_limits<float>::signaling_NaN();
  EXPECT_TRUE(std::isnan(tensor<float>(memory, {1}, {nan}).to(DType::BF16).to(DType::F32).data<float>()[0]));
  EXPECT_THAT([&] { x.to(DType::I32); }, ThrowsMessage<Error>(HasSubstr("int32 cannot be converted")));
}

TEST(Tensor, EmptiedAndRefilledStorage) {
  Tensor x = tensor<float>(memory, {2}, {1, 2});
  const std::uint64_t version = x.version();
  const Saved saved(x);
  x.storage()->release();
  EXPECT_TRUE(x.storage()->is_empty());
  EXPECT_THAT([&] { x.data<float>(); }, ThrowsMessage<Error>("storage: 8 bytes were read while emptied"));
  EXPECT_THAT([&] { x.fill_zero(); }, ThrowsMessage<Error>("storage: 8 bytes were written while emptied"));
  auto* p = static_cast<float*>(x.storage()->refill());
  p[0] = 1;
  p[1] = 2;
  EXPECT_EQ(x.version(), version);
  EXPECT_THAT(host_values<float>(saved.get()), ElementsAre(1, 2));
  x.fill_zero();
  EXPECT_THAT([&] { saved.get(); }, ThrowsMessage<Error>(HasSubstr("was written after it was saved")));
}

TEST(Tensor, MemoryOfAnotherOwner) {
  auto values = std::make_shared<std::vector<float>>(std::vector<float>{1, 2, 3});
  Tensor x(std::make_shared<Storage>(memory, 12, values->data(), values), 4, DType::F32, {2});
  EXPECT_THAT(host_values<float>(x), ElementsAre(2, 3));
  EXPECT_EQ(values.use_count(), 2);
  x.storage()->release();
  EXPECT_EQ(values.use_count(), 1);
}

TEST(Tensor, BadInput) {
  const Tensor x = Tensor::zeros(memory, DType::F32, {2, 3});
  EXPECT_THAT([&] { x.data<double>(); }, ThrowsMessage<Error>("tensor: float32 [2,3] was read as float64"));
  EXPECT_THAT([&] { x.rows(1, 2); }, ThrowsMessage<Error>("rows: 2 rows from row 1 of a tensor [2,3]"));
  EXPECT_THAT([&] { x.reshape({7}); }, ThrowsMessage<Error>(HasSubstr("[7] has 7 elements, [2,3] has 6")));
  EXPECT_THAT([&] { tensor<float>(memory, {2}, {1}); }, ThrowsMessage<Error>(HasSubstr("1 values, expected 2")));
  EXPECT_THAT([&] { host_value(x); }, ThrowsMessage<Error>(HasSubstr("expected one element")));
  EXPECT_THAT([&] { Tensor::empty(memory, DType::Q8_0, {33}); }, ThrowsMessage<Error>(HasSubstr("33")));
  EXPECT_THROW(Shape({std::int64_t{1} << 40, std::int64_t{1} << 40}).numel(), Error);
  EXPECT_THROW(Shape({1, std::int64_t{1} << 40, std::int64_t{1} << 40}).row_size(), Error);
  EXPECT_EQ(Shape({std::int64_t{1} << 40, 3, 5}).row_size(), 15);
  EXPECT_EQ(bytes_of(DType::F64, (std::int64_t{1} << 60) - 1), std::numeric_limits<std::int64_t>::max() - 7);
  EXPECT_THAT([&] { bytes_of(DType::F64, std::int64_t{1} << 60); }, ThrowsMessage<Error>(HasSubstr("too many")));
}

TEST(Tensor, HostReadsAreCounted) {
  const std::int64_t before = memory->host_reads;
  host_value(tensor<double>(memory, {1}, {2}));
  EXPECT_EQ(memory->host_reads, before + 1);
}

}  // namespace
}  // namespace limbeck::core
