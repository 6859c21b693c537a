#include "data/files/hdf5_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <cmath>
#include <csignal>
#include <functional>
#include <numeric>
#include <thread>

#include "tests/support/raw_hdf5.h"
#include "tests/support/temporary_folder.h"

namespace limbeck::data {
namespace {

using core::DType;
using core::Memory;
using core::Shape;
using core::Tensor;
using limbeck::testing::error_of;
using limbeck::testing::TemporaryFolder;
using ::testing::AllOf;
using ::testing::HasSubstr;
using List = std::vector<std::int64_t>;

/// A disk that is full for a moment: what HDF5 holds back until later would be lost without a word.
TEST(Hdf5File, AWriteThatFailsIsNoticed) {
  const TemporaryFolder folder;
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  Hdf5File out = Hdf5File::create(folder.path() / "full.h5");
  out.create_dataset("/a", DType::F32, {1000});
  rlimit before{};
  ::getrlimit(RLIMIT_FSIZE, &before);
  const rlimit none{512, before.rlim_max};
  ::setrlimit(RLIMIT_FSIZE, &none);
  const std::vector<float> values(1000, 1);
  const std::string error = error_of([&] { out.write("/a", DType::F32, values.data(), List{0}, {1000}); });
  ::setrlimit(RLIMIT_FSIZE, &before);
  std::signal(SIGXFSZ, handler);
  EXPECT_THAT(error, AllOf(HasSubstr("full.h5"), HasSubstr("/a")));
}

TEST(Hdf5File, EveryDtypeComesBack) {
  const TemporaryFolder folder;
  const auto memory = Memory::cpu(1);
  const auto file = folder.path() / "all.h5";
  std::vector<core::bf16> small = {core::bf16(1.5F), core::bf16(-3.0F), core::bf16(INFINITY)};
  {
    Hdf5File out = Hdf5File::create(file);
    out.write_dataset("/a/f32", Tensor::from<float>(memory, {3}, std::vector<float>{1.25F, -2, 1e30F}));
    out.write_dataset("/a/f64", Tensor::from<double>(memory, {1, 3}, std::vector<double>{1.0 / 3, -2, 1e300}));
    out.write_dataset("/a/bf16", Tensor::from<core::bf16>(memory, {3, 1}, small));
    out.write_dataset("/b/i32", Tensor::from<std::int32_t>(memory, {2}, std::vector<std::int32_t>{-7, 1 << 30}));
    out.write_dataset("/b/i64", Tensor::from<std::int64_t>(memory, {1}, List{std::int64_t{1} << 60}));
    out.write_dataset("/b/u8", Tensor::from<std::uint8_t>(memory, {2}, std::vector<std::uint8_t>{0, 255}));
    out.write_dataset("/b/scalar", Tensor::from<float>(memory, {}, std::vector<float>{4}));
    out.write_dataset("/b/empty", Tensor::empty(memory, DType::F32, {0, 5}));
    out.close();
  }
  const Hdf5File in = Hdf5File::open(file);
  EXPECT_EQ(in.datasets(), (std::vector<std::string>{"/a/bf16", "/a/f32", "/a/f64", "/b/empty", "/b/i32", "/b/i64",
                                                     "/b/scalar", "/b/u8"}));
  EXPECT_EQ(core::host_values<float>(in.read_dataset("/a/f32", memory, DType::F32)),
            (std::vector<float>{1.25F, -2, 1e30F}));
  EXPECT_EQ(core::host_values<double>(in.read_dataset("/a/f64", memory, DType::F64)),
            (std::vector<double>{1.0 / 3, -2, 1e300}));
  EXPECT_EQ(core::host_values<float>(in.read_dataset("/a/bf16", memory, DType::F32)),
            (std::vector<float>{1.5F, -3, INFINITY}));
  EXPECT_EQ(core::host_values<std::int32_t>(in.read_dataset("/b/i32", memory, DType::I32)),
            (std::vector<std::int32_t>{-7, 1 << 30}));
  EXPECT_EQ(core::host_values<std::int64_t>(in.read_dataset("/b/i64", memory, DType::I64)),
            List{std::int64_t{1} << 60});
  EXPECT_EQ(core::host_values<float>(in.read_dataset("/b/scalar", memory, DType::F32)), std::vector<float>{4});
  EXPECT_EQ(in.dataset_info("/b/empty").shape, (Shape{0, 5}));
  EXPECT_EQ(in.read_dataset("/b/empty", memory, DType::F32).numel(), 0);
  EXPECT_EQ(in.dataset_info("/a/bf16").dtype, DType::BF16);
  EXPECT_EQ(in.dataset_info("/b/u8").dtype, DType::U8);
  EXPECT_TRUE(in.contains("/a/f32"));
  EXPECT_FALSE(in.contains("/a/f99"));
  EXPECT_FALSE(in.contains("/x/y/z"));
}

// HDF5's own rounding, which hdf5_file.h warns of: 1 + 2^-8 lies between 1 and 1 + 2^-7.
TEST(Hdf5File, ConvertsFloat32ToNearestBfloat16TiesAway) {
  const TemporaryFolder folder;
  const std::vector<float> values = {1.00390625F, 1.0F / 3, -65504.0F, 0.0F, 1e-30F};
  const Shape shape{static_cast<std::int64_t>(values.size())};
  Hdf5File out = Hdf5File::create(folder.path() / "c.h5");
  out.create_dataset("/x", DType::BF16, shape);
  out.write("/x", DType::F32, values.data(), List{0}, shape);
  const auto memory = Memory::cpu(1);
  const auto stored = core::host_values<core::bf16>(out.read_dataset("/x", memory, DType::BF16));
  EXPECT_EQ(static_cast<float>(stored[0]), 1.0078125F);
  for (std::size_t i = 1; i < values.size(); ++i) EXPECT_EQ(stored[i].bits, core::bf16(values[i]).bits) << values[i];
}

TEST(Hdf5File, RowsAreWrittenAndBoxesRead) {
  const TemporaryFolder folder;
  std::vector<float> values(7 * 5);
  std::iota(values.begin(), values.end(), 0.0F);
  Hdf5File file = Hdf5File::create(folder.path() / "rows.h5");
  file.create_dataset("/logits", DType::F32, {7, 5});
  for (std::int64_t t = 0; t < 7; t += 3) {
    const std::int64_t n = std::min<std::int64_t>(3, 7 - t);
    file.write("/logits", DType::F32, values.data() + t * 5, List{t, 0}, {n, 5});
  }
  std::vector<double> box(6);
  file.read("/logits", DType::F64, box.data(), List{4, 1}, {2, 3});
  EXPECT_EQ(box, (std::vector<double>{21, 22, 23, 26, 27, 28}));
}

TEST(Hdf5File, AttributesComeBack) {
  const TemporaryFolder folder;
  {
    Hdf5File out = Hdf5File::create(folder.path() / "a.h5");
    out.create_dataset("/g/x", DType::F32, {1});
    out.set_attribute("/", "step", std::int64_t{20});
    out.set_attribute("/g", "rate", 0.1);
    out.set_attribute("/g/x", "text", std::string("grüß\ngott"));
    out.set_attribute("/g/x", "nothing", std::string());
    out.set_attribute("/g/x", "long", std::string(100000, 'x'));
    out.set_attribute("/g/x", "shape", List{3, 0, 5});
    out.set_attribute("/g/x", "none", List{});
    out.close();
  }
  const Hdf5File in = Hdf5File::open(folder.path() / "a.h5");
  EXPECT_EQ(in.attribute<std::int64_t>("/", "step"), 20);
  EXPECT_EQ(in.attribute<double>("/g", "rate"), 0.1);
  EXPECT_EQ(in.attribute<std::string>("/g/x", "text"), "grüß\ngott");
  EXPECT_EQ(in.attribute<std::string>("/g/x", "nothing"), "");
  EXPECT_EQ(in.attribute<std::string>("/g/x", "long"), std::string(100000, 'x'));
  EXPECT_EQ(in.attribute<List>("/g/x", "shape"), (List{3, 0, 5}));
  EXPECT_EQ(in.attribute<List>("/g/x", "none"), List{});
  EXPECT_THAT(error_of([&] { in.attribute<double>("/", "step"); }), HasSubstr("attribute step of /"));
  EXPECT_THAT(error_of([&] { in.attribute("/g", "absent"); }), HasSubstr("attribute absent"));
}

TEST(Hdf5File, VirtualDatasetShowsOthersPartsAndNaNWhereThereIsNone) {
  const TemporaryFolder folder;
  const auto memory = Memory::cpu(1);
  for (int part = 0; part < 2; ++part) {
    Hdf5File out = Hdf5File::create(folder.path() / fmt::format("part{}.h5", part));
    out.write_dataset(
        "/x", Tensor::from<core::bf16>(memory, {2, 1}, std::vector(2, core::bf16(static_cast<float>(part + 1)))));
    out.close();
  }
  {
    Hdf5File out = Hdf5File::create(folder.path() / "index.h5");
    out.create_virtual_dataset(
        "/v", DType::BF16, {2, 3},
        std::vector<VirtualSource>{{"part0.h5", "/x", {0, 0}, {2, 1}}, {"part1.h5", "/x", {0, 2}, {2, 1}}});
    out.close();
  }
  const auto values = testing::values_of(folder.path() / "index.h5", "/v");
  EXPECT_EQ(values[0], 1);
  EXPECT_TRUE(std::isnan(values[1]));
  EXPECT_EQ(values[5], 2);
  // Here such a place is no number.
  const Hdf5File index = Hdf5File::open(folder.path() / "index.h5");
  EXPECT_THAT(error_of([&] { index.read_dataset("/v", memory, DType::F32); }), HasSubstr("/v is a virtual dataset"));
  EXPECT_EQ(index.dataset_info("/v").shape, (Shape{2, 3}));
}

TEST(Hdf5File, ErrorsNameFilePathAndReasonAndPrintNothing) {
  const TemporaryFolder folder;
  ::testing::internal::CaptureStderr();
  EXPECT_THAT(error_of([&] { Hdf5File::open(folder.path() / "absent.h5"); }),
              AllOf(HasSubstr("absent.h5"), HasSubstr("No such file")));
  testing::write_file(folder.path() / "text.h5", "no HDF5 at all");
  EXPECT_THAT(error_of([&] { Hdf5File::open(folder.path() / "text.h5"); }), HasSubstr("text.h5"));
  EXPECT_THAT(error_of([&] { Hdf5File::create(folder.path() / "no_folder" / "a.h5"); }), HasSubstr("No such file"));
  Hdf5File file = Hdf5File::create(folder.path() / "a.h5");
  file.create_dataset("/x", DType::F32, {2, 3});
  float value[6] = {};
  const auto read = [&](const List& offset, const Shape& extent) {
    return error_of([&] { file.read("/x", DType::F32, value, offset, extent); });
  };
  EXPECT_THAT(read({1, 0}, {2, 3}), AllOf(HasSubstr("/x has shape [2,3]"), HasSubstr("[2,3] at [1,0]")));
  EXPECT_THAT(read({-1, 0}, {1, 3}), HasSubstr("at [-1,0]"));
  EXPECT_THAT(read({0}, {2}), HasSubstr("[2,3]"));
  EXPECT_THAT(error_of([&] { file.read("/y", DType::F32, value, List{0}, {1}); }), HasSubstr("/y was not opened"));
  EXPECT_THAT(error_of([&] { file.create_dataset("/x", DType::F32, {1}); }), HasSubstr("/x dataset was not created"));
  EXPECT_THAT(error_of([&] { file.create_dataset("/q", DType::Q8_0, {32}); }), HasSubstr("Q8_0"));
  EXPECT_THAT(error_of([] { hdf5_path("/model", "a..b"); }), HasSubstr("a..b"));
  EXPECT_THAT(error_of([] { hdf5_path("/model", ""); }), HasSubstr("empty part"));
  EXPECT_EQ(hdf5_path("/gradients", "layers.0.mlp.up.weight"), "/gradients/layers/0/mlp/up/weight");
  EXPECT_EQ(::testing::internal::GetCapturedStderr(), "");
}

// Files of other programs, which `inspect` lists: nothing of another file is looked at, and an end is found.
TEST(Hdf5File, WhatLeadsOutOfTheFileIsRefused) {
  const TemporaryFolder folder;
  const auto path = folder.path() / "foreign.h5";
  const auto error_with = [&](const std::function<void(const testing::RawHdf5&)>& change) {
    Hdf5File out = Hdf5File::create(path);
    out.create_dataset("/g/x", DType::F32, {4});
    out.close();
    change(testing::RawHdf5(path));
    return error_of([&] {
      const Hdf5File file = Hdf5File::open(path);
      for (const std::string& name : file.datasets()) file.dataset_info(name);
    });
  };
  EXPECT_EQ(error_with([](const auto&) {}), "");
  EXPECT_THAT(error_with([](const auto& f) { H5Lcreate_soft("/g/x", f, "/s", H5P_DEFAULT, H5P_DEFAULT); }),
              HasSubstr("foreign.h5: /s is a soft or external link"));
  EXPECT_THAT(error_with([](const auto& f) { H5Lcreate_external("/e.h5", "/x", f, "/g/e", H5P_DEFAULT, H5P_DEFAULT); }),
              HasSubstr("foreign.h5: /g/e is a soft or external link"));
  EXPECT_THAT(error_with([](const auto& f) { H5Lcreate_hard(f, "/g", f, "/g/h", H5P_DEFAULT, H5P_DEFAULT); }),
              HasSubstr("more than 32 groups deep"));
  const auto dataset = [](const testing::RawHdf5& f, hid_t space, const std::function<void(hid_t properties)>& set) {
    const testing::RawId properties = H5Pcreate(H5P_DATASET_CREATE);
    set(properties);
    const testing::RawId made = H5Dcreate2(f, "/d", H5T_IEEE_F32LE, space, H5P_DEFAULT, properties, H5P_DEFAULT);
  };
  const testing::RawId space = testing::raw_space({4});
  const auto outside = [](hid_t p) { H5Pset_external(p, "/etc/passwd", 0, 16); };
  EXPECT_THAT(error_with([&](const auto& f) { dataset(f, space, outside); }),
              HasSubstr("foreign.h5: /d keeps its values in other files"));
  const auto above = [&](hid_t p) { H5Pset_virtual(p, space, "../other.h5", "/x", space); };
  EXPECT_THAT(error_with([&](const auto& f) { dataset(f, space, above); }),
              HasSubstr("foreign.h5: /d has a virtual source in \"../other.h5\""));
}

TEST(Hdf5File, ThreadsWriteTheirOwnFilesAtOnce) {
  const TemporaryFolder folder;
  const auto work = [&](int rank) {
    const auto memory = Memory::cpu(1);
    for (int repeat = 0; repeat < 20; ++repeat) {
      Hdf5File file = Hdf5File::create(folder.path() / fmt::format("{}.h5", rank));
      file.write_dataset("/g/x", Tensor::from<float>(memory, {100}, std::vector(100, static_cast<float>(rank))));
      ASSERT_EQ(core::host_values<float>(file.read_dataset("/g/x", memory, DType::F32)),
                std::vector(100, static_cast<float>(rank)));
      ASSERT_THROW(file.dataset_info("/absent"), core::Error);
    }
  };
  std::vector<std::thread> threads;
  for (int rank = 0; rank < 4; ++rank) threads.emplace_back(work, rank);
  for (auto& thread : threads) thread.join();
}

}  // namespace
}  // namespace limbeck::data
