#include "data/models/safetensors.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "tests/support/places.h"
#include "tests/support/temporary_folder.h"

namespace limbeck::data {
namespace {

using core::DType;
using core::Memory;
using core::Shape;
using core::Tensor;
using limbeck::testing::error_of;
using limbeck::testing::read_file;
using limbeck::testing::TemporaryFolder;
using limbeck::testing::write_file;
using ::testing::AllOf;
using ::testing::HasSubstr;

template <class T>
std::vector<T> values(const SafetensorsFile& file, const std::string& name) {
  const SafetensorsEntry& entry = file.tensors().at(name);
  std::vector<T> out(static_cast<std::size_t>(entry.shape.numel()));
  SafetensorsFile::read(entry, 0, entry.shape.numel(), core::dtype_of<T>(), reinterpret_cast<std::byte*>(out.data()));
  return out;
}

std::string with_header(const std::string& header, std::size_t data_bytes = 0) {
  const std::uint64_t size = header.size();
  std::string bytes(8, '\0');
  std::memcpy(bytes.data(), &size, 8);
  return bytes + header + std::string(data_bytes, '\1');
}

// tests/golden/safetensors/make_golden.py wrote the file; the values are its.
TEST(Safetensors, ReadsWhatPythonWrote) {
  const SafetensorsFile file(testing::golden_folder() / "safetensors/tiny.safetensors");
  EXPECT_EQ(file.tensors().size(), 7U);
  EXPECT_EQ(values<float>(file, "f16"), (std::vector<float>{0, -1.5F, 65504, 0x1p-24F, 1, INFINITY}));
  EXPECT_EQ(values<float>(file, "bf16"), (std::vector<float>{0, -1.5F, 65536, 0x1.02p-24F, 1, INFINITY}));
  EXPECT_EQ(values<float>(file, "f32"), (std::vector<float>{0.1F, -2}));
  EXPECT_EQ(values<double>(file, "f64"), (std::vector<double>{0.1, 1e300}));
  EXPECT_EQ(values<double>(file, "f32"), (std::vector<double>{0.1F, -2}));
  EXPECT_EQ(static_cast<float>(values<core::bf16>(file, "f32")[0]), 0.10009765625F);
  EXPECT_EQ(values<std::int64_t>(file, "i64"), (std::vector<std::int64_t>{-1, std::int64_t{1} << 40}));
  EXPECT_EQ(values<float>(file, "scalar"), std::vector<float>{3.5F});
  EXPECT_EQ(file.tensors().at("scalar").shape, Shape{});
  EXPECT_EQ(file.tensors().at("empty").shape, (Shape{0, 4}));
  EXPECT_THAT(error_of([&] { values<float>(file, "i64"); }), HasSubstr("int64"));
}

TEST(Safetensors, WrittenComesBackAlignedAndWhole) {
  const TemporaryFolder folder;
  const auto memory = Memory::cpu(1);
  const auto path = folder.path() / "a.safetensors";
  SafetensorsWriter writer(path, {{"b", DType::BF16, {3}}, {"a", DType::F32, {2, 2}}, {"none", DType::F64, {0}}},
                           {{"format", "pt"}});
  writer.write(Tensor::from<core::bf16>(memory, {3}, std::vector(3, core::bf16(1.5F))));
  EXPECT_THAT(error_of([&] { writer.finish(); }), HasSubstr("1 of 3 tensors"));
  EXPECT_FALSE(std::filesystem::exists(path));
  writer.write(Tensor::from<float>(memory, {2, 2}, std::vector<float>{1, 2, 3, 4}));
  EXPECT_THAT(error_of([&] { writer.write(Tensor::zeros(memory, DType::F32, {1})); }),
              HasSubstr("tensor none is float32 [1]"));
  writer.finish();
  const SafetensorsFile file(path);
  EXPECT_EQ(values<float>(file, "a"), (std::vector<float>{1, 2, 3, 4}));
  EXPECT_EQ(values<float>(file, "b"), (std::vector<float>{1.5F, 1.5F, 1.5F}));
  const std::string bytes = read_file(path);
  std::uint64_t header = 0;
  std::memcpy(&header, bytes.data(), 8);
  EXPECT_EQ((8 + header) % 64, 0U);
  EXPECT_EQ(bytes.size(), 8 + header + 6 + 16);
}

TEST(Safetensors, ShardsByBytes) {
  const std::vector<SafetensorsPlan> plan = {
      {"a", DType::F32, {4}}, {"b", DType::F32, {4}}, {"big", DType::F32, {100}}, {"c", DType::F32, {1}}};
  const SafetensorsShards shards = safetensors_shards(plan, 32);
  ASSERT_EQ(shards.files.size(), 3U);
  EXPECT_EQ(shards.files[0].name, "model-00001-of-00003.safetensors");
  EXPECT_EQ(shards.files[0].plan.size(), 2U);
  EXPECT_EQ(shards.files[1].plan[0].name, "big");
  EXPECT_THAT(shards.index,
              AllOf(HasSubstr("\"total_size\": 436"), HasSubstr("\"c\": \"model-00003-of-00003.safetensors\"")));
  const SafetensorsShards one = safetensors_shards(plan, 1000);
  EXPECT_EQ(one.files.at(0).name, "model.safetensors");
  EXPECT_EQ(one.index, "");
}

struct Hostile {
  std::string bytes;
  std::string message;
};

TEST(Safetensors, HostileHeadersAreRefusedByName) {
  const TemporaryFolder folder;
  const auto path = folder.path() / "bad.safetensors";
  const auto one = [](const std::string& dtype, const std::string& shape, const std::string& offsets) {
    return R"({"w":{"dtype":")" + dtype + R"(","shape":)" + shape + R"(,"data_offsets":)" + offsets + "}}";
  };
  const std::vector<Hostile> cases = {
      {"", "has 0 bytes"},
      {"1234567", "has 7 bytes"},
      {std::string(8, '\xff'), "header length is 18446744073709551615"},
      {std::string("\x40\0\0\0\0\0\0\0{}", 10), "header length is 64"},
      {std::string(8, '\0') + "{}", "header length is 0"},
      {with_header("{\"w\": "), "parse error"},
      {with_header("[1,2]"), "is array"},
      {with_header("{\"w\": 3}"), "tensor w: is number"},
      {with_header("{\"w\":{\"dtype\":\"F32\"}}"), "tensor w"},
      {with_header(one("Q9", "[1]", "[0,4]"), 4), "tensor w: dtype is Q9"},
      {with_header(one("F8_E5M2", "[4]", "[0,4]"), 4), "dtype is F8_E5M2"},
      {with_header(one("F32", "[2]", "[0,4]"), 4), "float32 [2] has 2 elements, but 4 bytes"},
      {with_header(one("F32", "[1]", "[4,8]"), 4), "data_offsets are [4,8], expected to lie in the 4 bytes"},
      {with_header(one("F32", "[1]", "[4,0]"), 4), "data_offsets are [4,0]"},
      {with_header(one("F32", "[1]", "[-4,0]"), 4), "a data offset is -4"},
      {with_header(one("F32", "[-1]", "[0,4]"), 4), "an extent is -1"},
      {with_header(one("F32", "[1.5]", "[0,4]"), 4), "an extent is 1.5"},
      {with_header(one("F32", "[4611686018427387904,4]", "[0,4]"), 4), "too many elements"},
      {with_header(one("F64", "[2305843009213693952]", "[0,0]"), 4), "0 bytes lie between"},
      {with_header(one("F32", "[18446744073709551615]", "[0,4]"), 4), "an extent is 18446744073709551615"},
      {with_header(one("F32", "[1,1,1,1,1,1]", "[0,4]"), 4), "6 dimensions"},
      {with_header(one("F32", "1", "[0,4]"), 4), "expected a shape"},
      {with_header(one("F32", "[1]", "[0]"), 4), "two data_offsets"},
      {with_header(
           R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})",
           8),
       "tensor b: bytes from 4 overlap those of an earlier tensor up to 8"},
      {with_header(
           R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})",
           8),
       "header: names \"a\" twice"},
      {with_header(std::string(1000, '[')), "header: is nested more than 64 deep"},
      {with_header(R"({"a":{"dtype":"F32","shape":[1],"shape":[2],"data_offsets":[0,8]}})", 8),
       "header: names \"shape\" twice"},
      // Bytes that no tensor covers: before the first, between two, after the last.
      {with_header(one("F32", "[1]", "[4,8]"), 8), "tensor w: bytes 0 to 4 before it belong to no tensor"},
      {with_header(
           R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"b":{"dtype":"F32","shape":[1],"data_offsets":[8,12]}})",
           12),
       "tensor b: bytes 4 to 8 before it belong to no tensor"},
      {with_header(one("F32", "[1]", "[0,4]"), 8), "data: has 8 bytes, but the tensors take 4"},
      // What the JSON library says is short, however much it had read.
      {with_header("{\"" + std::string(100000, 'w')), "missing closing quote; last read: '...wwww"},
  };
  for (const auto& [bytes, message] : cases) {
    write_file(path, bytes);
    EXPECT_THAT(error_of([&] { SafetensorsFile{path}; }), AllOf(HasSubstr("bad.safetensors"), HasSubstr(message)));
  }
  EXPECT_THAT(error_of([&] { SafetensorsFile{folder.path() / "absent"}; }), HasSubstr("absent"));
}

}  // namespace
}  // namespace limbeck::data
