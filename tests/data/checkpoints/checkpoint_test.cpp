#include "data/checkpoints/checkpoint.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <nlohmann/json.hpp>
#include <numeric>
#include <thread>

#include "data/files/hdf5_file.h"
#include "tests/support/raw_hdf5.h"
#include "tests/support/temporary_folder.h"

namespace limbeck::data {
namespace {

namespace fs = std::filesystem;
using core::DType;
using core::Memory;
using core::MemoryPtr;
using core::Shape;
using core::StateDict;
using core::StateEntry;
using core::Tensor;
using limbeck::testing::error_of;
using limbeck::testing::read_file;
using limbeck::testing::TemporaryFolder;
using limbeck::testing::write_file;
using ::testing::AllOf;
using ::testing::HasSubstr;
using List = std::vector<std::int64_t>;

/// The value of an element depends on its global index alone.
double value_at(std::int64_t global_index) { return static_cast<double>(global_index) * 0.5 - 3; }

/// The box of a tensor whose elements are value_at(global index), or an unfilled one.
StateEntry box(const MemoryPtr& memory, DType dtype, const Shape& global, const List& offset, const Shape& extent,
               bool fill = true) {
  StateEntry entry{global, offset, Tensor::empty(memory, DType::F64, extent), true};
  double* out = entry.tensor.mutable_data<double>();
  for (std::int64_t i = 0; i < extent.numel(); ++i) {
    std::int64_t rest = i;
    std::int64_t stride = 1;
    std::int64_t index = 0;
    for (int d = global.rank() - 1; d >= 0; --d) {
      index += (offset[d] + rest % extent[d]) * stride;
      rest /= extent[d];
      stride *= global[d];
    }
    out[i] = fill ? value_at(index) : -99;
  }
  if (dtype != DType::I64) {
    entry.tensor = entry.tensor.to(dtype);
    return entry;
  }
  std::vector<std::int64_t> integers(out, out + extent.numel());
  entry.tensor = Tensor::from<std::int64_t>(memory, extent, integers);
  return entry;
}

const Shape matrix{5, 6};
const Shape experts{4, 3, 2};

/// Rank r of 1, 2 or 4: uneven row blocks of a matrix, experts divided, a replica written once, a scalar, an empty
/// tensor.
StateDict shard(const MemoryPtr& memory, int rank, int size) {
  const std::map<int, List> rows = {{1, {0, 5}}, {2, {0, 4, 5}}, {4, {0, 1, 1, 4, 5}}};  // a rank of 4 holds none
  const List& cut = rows.at(size);
  const std::int64_t num_rows = cut[rank + 1] - cut[rank];
  StateDict state;
  state["layers.0.mlp.up.weight"] = box(memory, DType::F32, matrix, {cut[rank], 0}, {num_rows, 6});
  state["optimizer/layers.0.mlp.up.weight/m"] = box(memory, DType::F64, matrix, {cut[rank], 0}, {num_rows, 6});
  state["layers.0.moe.experts.gate"] = box(memory, DType::BF16, experts, {rank * 4 / size, 0, 0}, {4 / size, 3, 2});
  state["norm.weight"] = box(memory, DType::F32, {7}, {0}, {7});
  state["norm.weight"].write = rank == size - 1;
  if (rank == 0) {
    state["loader/position"] = box(memory, DType::I64, {3}, {0}, {3});
    state["optimizer/norm.weight/steps"] = box(memory, DType::F64, {}, {}, {});
    state["empty.weight"] = box(memory, DType::F32, {0, 3}, {0, 0}, {0, 3});
  }
  return state;
}

fs::path save(const fs::path& checkpoints, std::int64_t step, int size, const std::string& extra = "{}") {
  const fs::path temporary = begin_checkpoint(checkpoints, step);
  std::vector<RankFileInfo> infos;
  for (int rank = 0; rank < size; ++rank) {
    const auto info = write_rank_file(temporary, rank, step, shard(Memory::cpu(1), rank, size));
    infos.push_back(rank_file_info_from_text(to_text(info)));
  }
  return finish_checkpoint(temporary, infos, extra);
}

void expect_box(const Checkpoint& checkpoint, const std::string& name, DType dtype, const Shape& global,
                const List& offset, const Shape& extent) {
  const auto memory = Memory::cpu(1);
  StateEntry read = box(memory, dtype, global, offset, extent, false);
  checkpoint.read(name, read);
  const StateEntry expected = box(memory, dtype, global, offset, extent);
  EXPECT_EQ(std::string(reinterpret_cast<const char*>(read.tensor.raw()), read.tensor.bytes()),
            std::string(reinterpret_cast<const char*>(expected.tensor.raw()), expected.tensor.bytes()))
      << name << " " << extent.extents()[0];
}

class Layouts : public ::testing::TestWithParam<int> {};

TEST_P(Layouts, WhatAnyNumberOfRanksWroteIsReadUnderAnyOther) {
  const TemporaryFolder folder;
  const Checkpoint checkpoint(save(folder.path(), 20, GetParam(), R"({"lr": 0.5})"));
  EXPECT_EQ(checkpoint.step(), 20);
  EXPECT_EQ(checkpoint.extra(), R"({"lr": 0.5})");
  EXPECT_EQ(checkpoint.tensors().size(), 7U);
  EXPECT_EQ(checkpoint.tensors().at("layers.0.moe.experts.gate").dtype, DType::BF16);
  EXPECT_EQ(checkpoint.tensors().at("layers.0.moe.experts.gate").shape, experts);
  EXPECT_EQ(checkpoint.tensors().at("optimizer/norm.weight/steps").shape, Shape{});
  // Whole, in three uneven parts, and boxes cut along the second dimension; with conversions among floats.
  for (const DType dtype : {DType::F32, DType::F64, DType::BF16}) {
    expect_box(checkpoint, "layers.0.mlp.up.weight", dtype, matrix, {0, 0}, matrix);
    expect_box(checkpoint, "optimizer/layers.0.mlp.up.weight/m", dtype, matrix, {0, 0}, matrix);
    expect_box(checkpoint, "layers.0.moe.experts.gate", dtype, experts, {1, 0, 1}, {3, 2, 1});
  }
  expect_box(checkpoint, "layers.0.mlp.up.weight", DType::F32, matrix, {0, 0}, {2, 6});
  expect_box(checkpoint, "layers.0.mlp.up.weight", DType::F32, matrix, {2, 0}, {1, 6});
  expect_box(checkpoint, "layers.0.mlp.up.weight", DType::F32, matrix, {3, 0}, {2, 6});
  expect_box(checkpoint, "layers.0.mlp.up.weight", DType::F32, matrix, {1, 4}, {4, 2});
  expect_box(checkpoint, "layers.0.mlp.up.weight", DType::F32, matrix, {3, 0}, {0, 6});
  expect_box(checkpoint, "norm.weight", DType::F32, {7}, {0}, {7});
  expect_box(checkpoint, "loader/position", DType::I64, {3}, {0}, {3});
  expect_box(checkpoint, "optimizer/norm.weight/steps", DType::F64, {}, {}, {});
  expect_box(checkpoint, "empty.weight", DType::F32, {0, 3}, {0, 0}, {0, 3});
}
INSTANTIATE_TEST_SUITE_P(Checkpoint, Layouts, ::testing::Values(1, 2, 4));

TEST(Checkpoint, MovesToAnotherPlace) {
  const TemporaryFolder folder;
  const fs::path from = save(folder.path() / "run" / "checkpoints", 3, 2);
  fs::rename(from, folder.path() / "elsewhere");
  expect_box(Checkpoint(folder.path() / "elsewhere"), "layers.0.mlp.up.weight", DType::F32, matrix, {0, 0}, matrix);
}

TEST(Checkpoint, IndexShowsWholeTensorsAtModulePaths) {
  const TemporaryFolder folder;
  const fs::path path = save(folder.path(), 8, 4) / "index.h5";
  const auto expect_values = [&](const std::string& dataset, std::size_t count) {
    const std::vector<double> values = testing::values_of(path, dataset);  // by HDF5 itself, as h5py
    ASSERT_EQ(values.size(), count);
    for (std::size_t i = 0; i < count; ++i) EXPECT_EQ(values[i], value_at(static_cast<std::int64_t>(i)));
  };
  expect_values("/model/layers/0/mlp/up/weight", 30);
  expect_values("/model/layers/0/moe/experts/gate", 24);
  const Hdf5File index = Hdf5File::open(path);
  EXPECT_EQ(index.dataset_info("/model/layers/0/mlp/up/weight").shape, matrix);
  EXPECT_TRUE(index.contains("/optimizer/layers/0/mlp/up/weight/m"));
  EXPECT_EQ(index.attribute<std::int64_t>("/", "step"), 8);
  EXPECT_EQ(index.attribute<std::int64_t>("/", "format_version"), 1);
  EXPECT_EQ(index.attribute<std::string>("/model/layers/0/moe/experts/gate", "dtype"), "bfloat16");
  EXPECT_EQ(index.attribute<List>("/model/layers/0/moe/experts/gate", "global_shape"), (List{4, 3, 2}));
}

TEST(Checkpoint, Bfloat16IsRoundedToEven) {
  const TemporaryFolder folder;
  const auto memory = Memory::cpu(1);
  const std::vector<float> values = {1.00390625F, 1.01171875F};  // ties: down to 1, up to 1 + 2^-6
  StateDict state;
  state["x"] = StateEntry::whole(Tensor::from<float>(memory, {2}, values));
  const fs::path temporary = begin_checkpoint(folder.path(), 1);
  const RankFileInfo info = write_rank_file(temporary, 0, 1, state);
  const Checkpoint checkpoint(finish_checkpoint(temporary, std::vector{info}, ""));
  StateEntry entry = StateEntry::whole(Tensor::zeros(memory, DType::BF16, {2}));
  checkpoint.read("x", entry);
  EXPECT_EQ(static_cast<float>(entry.tensor.data<core::bf16>()[0]), 1.0F);
  EXPECT_EQ(static_cast<float>(entry.tensor.data<core::bf16>()[1]), 1.015625F);
}

TEST(Checkpoint, RefusesWhatIsNotThereOrOfAnotherShape) {
  const TemporaryFolder folder;
  const Checkpoint checkpoint(save(folder.path(), 1, 2));
  const auto memory = Memory::cpu(1);
  const auto read = [&](const char* name, DType dtype, const Shape& global, const List& offset, const Shape& extent) {
    StateEntry entry = box(memory, dtype, global, offset, extent);
    return error_of([&] { checkpoint.read(name, entry); });
  };
  EXPECT_THAT(read("absent.weight", DType::F32, {7}, {0}, {7}),
              AllOf(HasSubstr("step_1"), HasSubstr("no tensor absent.weight")));
  EXPECT_THAT(read("norm.weight", DType::F32, {8}, {0}, {8}),
              AllOf(HasSubstr("norm.weight has shape [7], expected [8]")));
  EXPECT_THAT(read("norm.weight", DType::F32, {7}, {4}, {4}), HasSubstr("no box [4] at [4]"));
  EXPECT_THAT(read("norm.weight", DType::I64, {7}, {0}, {7}), HasSubstr("float32, which is not read as int64"));
  EXPECT_THAT(read("loader/position", DType::F32, {3}, {0}, {3}), HasSubstr("int64, which is not read as float32"));
}

TEST(Checkpoint, WriterNamesBoxesThatDoNotTile) {
  const TemporaryFolder folder;
  const auto memory = Memory::cpu(1);
  const auto attempt = [&](const std::vector<StateDict>& states) {
    const fs::path temporary = begin_checkpoint(folder.path(), 5);
    return error_of([&] {
      std::vector<RankFileInfo> infos;
      for (std::size_t rank = 0; rank < states.size(); ++rank)
        infos.push_back(write_rank_file(temporary, static_cast<int>(rank), 5, states[rank]));
      finish_checkpoint(temporary, infos, "{}");
    });
  };
  const auto part = [&](const List& offset, const Shape& extent, DType dtype = DType::F32,
                        const Shape& global = matrix) {
    return StateDict{{"w.weight", box(memory, dtype, global, offset, extent)}};
  };
  EXPECT_EQ(attempt({part({0, 0}, {5, 2}), part({0, 2}, {5, 4})}), "");
  EXPECT_THAT(attempt({part({0, 0}, {2, 6}), part({3, 0}, {2, 6})}),
              AllOf(HasSubstr("w.weight"), HasSubstr("gap: 24 of 30")));
  EXPECT_THAT(attempt({part({0, 0}, {3, 6}), part({2, 0}, {3, 6})}),
              AllOf(HasSubstr("w.weight"), HasSubstr("overlaps"), HasSubstr("rank_00001.h5")));
  // As many elements as there should be, but one row twice and one not at all.
  EXPECT_THAT(attempt({part({0, 0}, {3, 6}), part({2, 0}, {2, 6})}), HasSubstr("overlaps"));
  EXPECT_THAT(attempt({part({0, 0}, {3, 6}), part({3, 0}, {2, 6}, DType::F64)}), HasSubstr("float64"));
  EXPECT_THAT(attempt({part({0, 0}, {3, 6}), part({3, 0}, {3, 6}, DType::F32, {6, 6})}), HasSubstr("[6,6]"));
  StateDict outside = part({0, 0}, {5, 6});
  outside.at("w.weight").offset = {1, 0};
  EXPECT_THAT(attempt({outside}), AllOf(HasSubstr("rank_00000.h5: w.weight"), HasSubstr("at [1,0]")));
  StateDict integers = part({0, 0}, {5, 6});
  integers.at("w.weight").tensor = Tensor::zeros(memory, DType::I32, matrix);
  EXPECT_THAT(attempt({integers}), HasSubstr("dtype int32"));
  // Two names that are one path.
  StateDict twice = part({0, 0}, {5, 6});
  twice["w"] = StateEntry::whole(Tensor::zeros(memory, DType::F32, {1}));
  EXPECT_THAT(attempt({twice}), HasSubstr("/model/w"));
  EXPECT_THAT(error_of([] { rank_file_info_from_text("{\"file\": 3}"); }), HasSubstr("malformed"));
}

// ---- Damage
// ------------------------------------------------------------------------------------------------------------

std::vector<std::string> files_of(const fs::path& folder) {
  std::vector<std::string> names;
  for (const auto& item : fs::directory_iterator(folder)) names.push_back(item.path().filename().string());
  std::sort(names.begin(), names.end());
  return names;
}

TEST(CheckpointDamage, EveryFileIsNamedWhateverHappensToItAndTheNewestGoodOneIsUsed) {
  const TemporaryFolder folder;
  const fs::path good = save(folder.path(), 9, 2);
  const fs::path last = save(folder.path(), 10, 2);
  ASSERT_EQ(files_of(last), (std::vector<std::string>{"index.h5", "manifest.json", "rank_00000.h5", "rank_00001.h5"}));
  const auto newest = [&](std::string& bad) {
    bad.clear();
    return newest_good_checkpoint(folder.path(), [&](const std::string& line) { bad += line; });
  };
  std::string bad;
  EXPECT_EQ(newest(bad), last);
  EXPECT_EQ(bad, "");
  for (const auto& name : files_of(last)) {
    const std::string bytes = read_file(last / name);
    const auto expect_bad = [&](const std::string& how) {
      EXPECT_EQ(newest(bad), good) << name << " " << how;
      EXPECT_THAT(bad, AllOf(HasSubstr("step_10/" + name), HasSubstr(how)));
      EXPECT_EQ(std::count(bad.begin(), bad.end(), '\n'), 0);
      EXPECT_THAT(error_of([&] { Checkpoint{last}; }), HasSubstr("step_10/" + name));
    };
    for (const std::size_t place : {std::size_t{0}, bytes.size() / 3, bytes.size() / 2, bytes.size() - 1}) {
      std::string flipped = bytes;
      flipped[place] = static_cast<char>(flipped[place] ^ 4);
      write_file(last / name, flipped);
      expect_bad(name == "manifest.json" ? "" : "is corrupt");
    }
    write_file(last / name, bytes.substr(0, bytes.size() / 2));
    expect_bad(name == "manifest.json" ? "is no manifest" : "is truncated");
    write_file(last / name, "");
    expect_bad(name == "manifest.json" ? "is no manifest" : "is truncated");
    write_file(last / name, bytes + "x");
    expect_bad(name == "manifest.json" ? "is no manifest" : "is too long");
    fs::remove(last / name);
    expect_bad("is missing");
    write_file(last / name, bytes);
    EXPECT_EQ(newest(bad), last);
  }
  fs::remove_all(good);
  fs::remove(last / "manifest.json");
  EXPECT_EQ(newest(bad), std::nullopt);
}

TEST(CheckpointDamage, AFlippedBitAnywhereInTheManifestIsSeen) {
  const TemporaryFolder folder;
  const fs::path last = save(folder.path(), 4, 1, R"({"text": "x"})");
  const std::string bytes = read_file(last / "manifest.json");
  for (std::size_t bit = 0; bit < 8 * bytes.size(); bit += 7) {
    std::string flipped = bytes;
    flipped[bit / 8] = static_cast<char>(flipped[bit / 8] ^ (1 << (bit % 8)));
    write_file(last / "manifest.json", flipped);
    ASSERT_TRUE(find_damage(last).has_value()) << "byte " << bit / 8 << " of:\n" << flipped;
  }
}

TEST(CheckpointDamage, LaterVersionAndStrangeManifestsAreNamed) {
  const TemporaryFolder folder;
  const fs::path last = save(folder.path(), 4, 1);
  const std::string bytes = read_file(last / "manifest.json");
  const auto damage_with = [&](const std::string& from, const std::string& to) {
    std::string text = bytes;
    text.replace(text.find(from), from.size(), to);
    write_file(last / "manifest.json", text);
    return find_damage(last).value_or("");
  };
  EXPECT_THAT(damage_with("\"limbeck_checkpoint\": 1", "\"limbeck_checkpoint\": 2"), HasSubstr("format version is 2"));
  EXPECT_THAT(damage_with("\"limbeck_checkpoint\"", "\"someone_elses\""), HasSubstr("limbeck_checkpoint"));
  EXPECT_THAT(damage_with("\"step\": 4", "\"step\": 5"), HasSubstr("is corrupt"));
  write_file(last / "manifest.json", "[]");
  EXPECT_THAT(find_damage(last).value_or(""), HasSubstr("is no manifest"));
  // Whole by its own hash, but of no use.
  const auto write = [&](std::int64_t step, const std::vector<ManifestFile>& files) {
    write_manifest(last, {.step = step, .files = files, .extra = ""});
    return find_damage(last).value_or("");
  };
  EXPECT_THAT(write(5, {}), HasSubstr("manifest is of step 5"));
  EXPECT_THAT(write(4, {}), HasSubstr("lists no index.h5"));
  EXPECT_THAT(write(4, {{"../other/index.h5", 3, 0}}), HasSubstr("../other/index.h5"));
  EXPECT_THAT(write(4, {{"index.h5", -1, 0}}), HasSubstr("files[0].size is -1"));
  EXPECT_THAT(error_of([&] { write_manifest(last, {.files = {}, .extra = "\xff"}); }), HasSubstr("extra"));
}

TEST(CheckpointDamage, RanksDivideTheHashing) {
  const TemporaryFolder folder;
  const fs::path last = save(folder.path(), 4, 4);
  std::string bytes = read_file(last / "rank_00002.h5");
  bytes[bytes.size() / 2] = static_cast<char>(bytes[bytes.size() / 2] ^ 1);
  write_file(last / "rank_00002.h5", bytes);
  int found = 0;
  for (int part = 0; part < 3; ++part) found += find_damage(last, part, 3).has_value() ? 1 : 0;
  EXPECT_EQ(found, 1);
  EXPECT_EQ(error_of([&] { Checkpoint(last, Checkpoint::Verify::Sizes); }), "");
}

TEST(CheckpointFolders, LeftoversAreIgnoredThenRemoved) {
  const TemporaryFolder folder;
  EXPECT_TRUE(list_checkpoints(folder.path() / "absent").empty());
  const fs::path first = save(folder.path(), 2, 1);
  const fs::path half = begin_checkpoint(folder.path(), 10);  // killed after one rank wrote
  write_rank_file(half, 0, 10, shard(Memory::cpu(1), 0, 2));
  write_file(folder.path() / "step_99", "a file");
  fs::create_directory(folder.path() / "step_x");
  EXPECT_EQ(list_checkpoints(folder.path()), std::vector<fs::path>{first});
  const fs::path second = save(folder.path(), 11, 1);
  EXPECT_FALSE(fs::exists(half));
  EXPECT_EQ(list_checkpoints(folder.path()), (std::vector<fs::path>{second, first}));
}

TEST(CheckpointFolders, AStepSavedAgainReplacesTheOldOne) {
  const TemporaryFolder folder;
  save(folder.path(), 2, 4, "old");
  const fs::path again = save(folder.path(), 2, 1, "new");
  EXPECT_EQ(Checkpoint(again).extra(), "new");
  EXPECT_EQ(files_of(folder.path()), std::vector<std::string>{"step_2"});
  EXPECT_EQ(files_of(again), (std::vector<std::string>{"index.h5", "manifest.json", "rank_00000.h5"}));
}

TEST(CheckpointFolders, PruneKeepsTheLatest) {
  const TemporaryFolder folder;
  for (const std::int64_t step : {9, 10, 100}) save(folder.path(), step, 1);
  prune_checkpoints(folder.path(), 100, {.newest = 2});
  EXPECT_EQ(files_of(folder.path()), (std::vector<std::string>{"step_10", "step_100"}));
  prune_checkpoints(folder.path(), 100, {.newest = 5});
  EXPECT_EQ(files_of(folder.path()), (std::vector<std::string>{"step_10", "step_100"}));
  EXPECT_THAT(error_of([&] { prune_checkpoints(folder.path(), 100, {.newest = 0}); }), HasSubstr("expected 1 or more"));
}

TEST(CheckpointFolders, PruneNeverTakesTheOneJustWritten) {
  const TemporaryFolder folder;
  for (const std::int64_t step : {90, 100, 2, 3, 4}) save(folder.path(), step, 1);  // begun anew from before 90
  prune_checkpoints(folder.path(), 4, {.newest = 2});
  EXPECT_EQ(files_of(folder.path()), (std::vector<std::string>{"step_3", "step_4"}));
  save(folder.path(), 5, 1);
  prune_checkpoints(folder.path(), 4, {.newest = 1});
  EXPECT_EQ(files_of(folder.path()), std::vector<std::string>{"step_4"});
  EXPECT_THAT(error_of([&] { prune_checkpoints(folder.path(), 7, {.newest = 1}); }), HasSubstr("has no step_7"));
  EXPECT_EQ(files_of(folder.path()), std::vector<std::string>{"step_4"});
}

TEST(CheckpointFolders, PruneTakesTheDamagedFirst) {
  const TemporaryFolder folder;
  for (const std::int64_t step : {3, 54, 57, 60, 63}) save(folder.path(), step, 1);
  // One found damaged is no newer one to keep; had it been written again just now, it would be whole.
  const std::vector<fs::path> damaged = {folder.path() / "step_60", folder.path() / "step_63"};
  prune_checkpoints(folder.path(), 63, {.newest = 2, .damaged = damaged});
  EXPECT_EQ(files_of(folder.path()), (std::vector<std::string>{"step_57", "step_63"}));
}

TEST(CheckpointFolders, PruneKeepsTheBestToo) {
  const TemporaryFolder folder;
  for (const std::int64_t step : {2, 5, 7, 9}) save(folder.path(), step, 1);
  prune_checkpoints(folder.path(), 7, {.newest = 1, .best_step = 2});
  EXPECT_EQ(files_of(folder.path()), (std::vector<std::string>{"step_2", "step_7"}));
  save(folder.path(), 9, 1);
  const std::vector<fs::path> damaged = {folder.path() / "step_2"};
  prune_checkpoints(folder.path(), 9, {.newest = 1, .damaged = damaged, .best_step = 2});
  EXPECT_EQ(files_of(folder.path()), std::vector<std::string>{"step_9"});
  save(folder.path(), 11, 1);
  prune_checkpoints(folder.path(), 9, {.newest = 1, .best_step = 11});  // of a line that was left behind
  EXPECT_EQ(files_of(folder.path()), std::vector<std::string>{"step_9"});
}

// Multiples stay for good, unless they are damaged or of a line that was left behind.
TEST(CheckpointFolders, PruneKeepsMultiplesToo) {
  const TemporaryFolder folder;
  for (const std::int64_t step : {4, 6, 8, 10, 12, 14}) save(folder.path(), step, 1);
  prune_checkpoints(folder.path(), 14, {.newest = 1, .every_steps = 4, .best_step = 6});
  EXPECT_EQ(files_of(folder.path()), (std::vector<std::string>{"step_12", "step_14", "step_4", "step_6", "step_8"}));
  const std::vector<fs::path> damaged = {folder.path() / "step_8"};
  save(folder.path(), 10, 1);
  prune_checkpoints(folder.path(), 10, {.newest = 1, .every_steps = 4, .damaged = damaged});
  EXPECT_EQ(files_of(folder.path()), (std::vector<std::string>{"step_10", "step_4"}));
}

TEST(CheckpointFolders, TheBestIsALinkThatReadsLikeACheckpoint) {
  const TemporaryFolder folder;
  for (const std::int64_t step : {2, 5}) save(folder.path(), step, 1);
  fs::create_symlink("step_7", folder.path() / "best.tmp");  // a kill left it
  EXPECT_TRUE(point_to_best(folder.path(), 2));
  EXPECT_EQ(Checkpoint(folder.path() / "best").step(), 2);
  EXPECT_TRUE(point_to_best(folder.path(), 5));
  EXPECT_EQ(Checkpoint(folder.path() / "best").step(), 5);
  EXPECT_EQ(fs::read_symlink(folder.path() / "best"), "step_5");
  EXPECT_EQ(list_checkpoints(folder.path()).size(), 2U);
  EXPECT_EQ(files_of(folder.path()), (std::vector<std::string>{"best", "step_2", "step_5"}));
  EXPECT_FALSE(point_to_best(folder.path(), 3));
  EXPECT_EQ(files_of(folder.path()), (std::vector<std::string>{"step_2", "step_5"}));
}

TEST(CheckpointFolders, EqualStatesAreEqualFiles) {
  const TemporaryFolder folder;
  const fs::path a = save(folder.path() / "a", 2, 2);
  std::this_thread::sleep_for(std::chrono::milliseconds(1100));  // HDF5's times are in seconds
  const fs::path b = save(folder.path() / "b", 2, 2);
  for (const auto& name : files_of(a)) EXPECT_TRUE(read_file(a / name) == read_file(b / name)) << name;
}

}  // namespace
}  // namespace limbeck::data
