#include "data/files/plain_hdf5.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "data/files/random_access_file.h"
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
using ::testing::HasSubstr;

/// The values of a contiguous dataset by the place that is told of it.
std::vector<float> values_at(const std::filesystem::path& file, const PlainDataset& dataset) {
  std::vector<float> values(static_cast<std::size_t>(dataset.info.shape.numel()));
  RandomAccessFile(file).read(dataset.first_byte, std::as_writable_bytes(std::span(values)));
  return values;
}

// Links lie in a group's header up to 8, then in a heap that a tree finds them in: of one node up to 45, then of two
// and of three levels.
class GroupsOfAnySize : public ::testing::TestWithParam<int> {};

TEST_P(GroupsOfAnySize, HaveTheDatasetsThatHdf5Finds) {
  const TemporaryFolder folder;
  const std::filesystem::path path = folder.path() / "many.h5";
  Hdf5File out = Hdf5File::create(path);
  const auto memory = Memory::cpu(1);
  for (int i = 0; i < GetParam(); ++i)
    out.write_dataset(fmt::format("/a/group of some length/{}", i),
                      Tensor::from<float>(memory, {2}, std::vector<float>{static_cast<float>(i), -1}));
  out.close();
  const PlainHdf5 file(path);
  const std::vector<std::string> expected = Hdf5File::open(path).datasets();
  ASSERT_EQ(file.datasets().size(), expected.size());
  ASSERT_EQ(expected.size(), static_cast<std::size_t>(GetParam()));
  for (const std::string& name : expected) {
    const auto found = file.datasets().find(name);
    ASSERT_NE(found, file.datasets().end()) << name;
    EXPECT_EQ(found->second.info.shape, (Shape{2}));
    const float number = std::stof(name.substr(name.rfind('/') + 1));
    EXPECT_EQ(values_at(path, found->second), (std::vector<float>{number, -1}));
  }
}
INSTANTIATE_TEST_SUITE_P(PlainHdf5, GroupsOfAnySize, ::testing::Values(1, 8, 9, 45, 46, 300, 1149, 1150, 3000));

TEST(PlainHdf5, EveryDtypeAndShapeIsTold) {
  const TemporaryFolder folder;
  const auto memory = Memory::cpu(1);
  Hdf5File out = Hdf5File::create(folder.path() / "a.h5");
  const std::map<std::string, core::StateInfo> expected = {{"/f", {{2, 3}, DType::F32}},
                                                           {"/d", {{1}, DType::F64}},
                                                           {"/b", {{4, 1, 2}, DType::BF16}},
                                                           {"/i", {{7}, DType::I64}},
                                                           {"/scalar", {{}, DType::F32}}};
  for (const auto& [path, info] : expected) out.write_dataset(path, Tensor::zeros(memory, info.dtype, info.shape));
  out.create_dataset("/none", DType::F32, {0, 3});
  out.create_virtual_dataset(
      "/v", DType::F32, {4, 3},
      std::vector<VirtualSource>{{"p.h5", "/x", {0, 0}, {1, 3}}, {"q.h5", "/x/y", {1, 0}, {3, 3}}});
  out.set_attribute("/f", "name", std::string("f.weight"));
  out.set_attribute("/f", "global_shape", std::vector<std::int64_t>{4, 3});
  out.set_attribute("/scalar", "global_shape", std::vector<std::int64_t>{});
  out.set_attribute("/scalar", "another", 0.5);
  out.close();
  const PlainHdf5 file(folder.path() / "a.h5");
  for (const auto& [path, info] : expected) {
    const PlainDataset& found = file.datasets().at(path);
    EXPECT_EQ(found.info.shape, info.shape) << path;
    EXPECT_EQ(found.info.dtype, info.dtype) << path;
    EXPECT_GT(found.first_byte, 0) << path;
  }
  EXPECT_EQ(file.datasets().at("/none").info.shape, (Shape{0, 3}));
  EXPECT_EQ(file.datasets().at("/f").name, "f.weight");
  EXPECT_EQ(file.datasets().at("/f").global_shape, (std::vector<std::int64_t>{4, 3}));
  EXPECT_EQ(file.datasets().at("/scalar").global_shape, std::vector<std::int64_t>{});
  EXPECT_EQ(file.datasets().at("/d").name, std::nullopt);
  const PlainDataset& seen = file.datasets().at("/v");
  EXPECT_TRUE(seen.is_virtual);
  EXPECT_EQ(seen.first_byte, -1);
  ASSERT_EQ(seen.sources.size(), 2U);
  EXPECT_EQ(seen.sources[1].file, "q.h5");
  EXPECT_EQ(seen.sources[1].path, "/x/y");
  EXPECT_EQ(seen.sources[1].offset, (std::vector<std::int64_t>{1, 0}));
  EXPECT_EQ(seen.sources[1].extent, (Shape{3, 3}));
}

TEST(PlainHdf5, AnyByteMayBeAnother) {
  const TemporaryFolder folder;
  const std::filesystem::path path = folder.path() / "a.h5";
  Hdf5File out = Hdf5File::create(path);
  for (int i = 0; i < 10; ++i)
    out.create_virtual_dataset(fmt::format("/g/{}", i), DType::F32, {2},
                               std::vector<VirtualSource>{{"p.h5", "/x", {0}, {2}}});
  out.set_attribute("/g/3", "name", std::string("g.3"));
  out.close();
  const std::string good = read_file(path);
  int refused = 0;
  for (std::size_t i = 0; i < good.size(); ++i)
    for (const char other : {'\0', '\1', '\xff'}) {
      std::string bytes = good;
      if (bytes[i] == other) continue;
      bytes[i] = other;
      write_file(path, bytes);
      const std::string error = error_of([&] { PlainHdf5 file(path); });
      if (error.empty()) continue;
      ++refused;
      ASSERT_THAT(error, HasSubstr("a.h5: "));
      ASSERT_LT(error.size(), 1000U);
    }
  EXPECT_GT(refused, 300);
  for (std::size_t size = 0; size < good.size(); size += 13) {
    write_file(path, good.substr(0, size));
    ASSERT_THAT(error_of([&] { PlainHdf5 file(path); }), HasSubstr("a.h5: ")) << size;
  }
}

}  // namespace
}  // namespace limbeck::data
