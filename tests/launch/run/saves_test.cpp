#include "launch/run/saves.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <chrono>
#include <thread>

#include "tests/support/temporary_folder.h"
#include "tests/support/thread_ranks.h"

namespace limbeck::launch {
namespace {

namespace fs = std::filesystem;
using core::DType;
using core::StateDict;
using core::StateEntry;
using core::Tensor;
using ::testing::AllOf;
using testing::error_of;
using ::testing::HasSubstr;
using testing::TemporaryFolder;

/// Rank r has rows [1000 r, 1000 (r + 1)) of a matrix, and the first rank a scalar of int64 as well; what is kept in
/// another form has a maker.
struct RankState {
  RankState(const Rank& rank, float first)
      : memory(rank.memory()), values(Tensor::empty(memory, DType::F32, {1000, 30})) {
    fill(first);
    const std::int64_t r = rank.world().rank(), n = rank.world().size();
    state["rows.weight"] = {{1000 * n, 30}, {1000 * r, 0}, values};
    state["made.weight"] = {
        {n, 30}, {r, 0}, outline(values.rows(0, 1)), true, [this] { return values.rows(7, 1).clone(); }};
    if (r == 0)
      state["loader/position"] = StateEntry::whole(Tensor::from<std::int64_t>(memory, {}, std::array{std::int64_t{9}}));
  }
  void fill(float first) {
    float* const out = values.mutable_host<float>();
    for (std::int64_t i = 0; i < values.numel(); ++i) out[i] = first + static_cast<float>(i);
  }
  core::MemoryPtr memory;
  Tensor values;
  StateDict state;
};

bool none_at_work(Rank& rank, const Saves& saves) {
  std::int64_t at_work = saves.is_at_work() ? 1 : 0;
  stop_is_agreed(rank, {{&at_work, 1}});
  return at_work == 0;
}

float first_of(const fs::path& checkpoint, const std::string& name) {
  const data::Checkpoint reader(checkpoint);
  StateEntry entry =
      StateEntry::whole(Tensor::zeros(core::Memory::cpu(1), DType::F32, reader.tensors().at(name).shape));
  reader.read(name, entry);
  return entry.tensor.host<float>()[0];
}

std::vector<std::string> names_in(const fs::path& folder) {
  std::vector<std::string> names;
  for (const auto& item : fs::directory_iterator(folder)) names.push_back(item.path().filename());
  std::ranges::sort(names);
  return names;
}

Save save_of(const TemporaryFolder& folder, const std::string& run, std::int64_t step, const StateDict& state) {
  return {.checkpoints = folder.path() / run, .step = step, .state = state, .extra = "{}", .keep = {.newest = 9}};
}

bool never() { return false; }

// What steps change meanwhile is not in it: the files are those of a run that waited, byte for byte.
TEST(Saves, BesideStepsAreThoseOfARunThatWaits) {
  const TemporaryFolder folder;
  testing::run_ranks(2, [&](testing::RankWorld& world) {
    Rank rank(world.comm, "dp2", 1);
    RankState state(rank, 5);
    Saves saves(rank, never);
    saves.begin(save_of(folder, "waits", 3, state.state), false);
    saves.finish();
    EXPECT_TRUE(saves.take_finished());
    for (const std::int64_t step : {3, 4}) {  // the second in the memory of the first
      state.fill(step == 3 ? 5 : 6);
      saves.begin(save_of(folder, "beside", step, state.state), true);
      state.fill(-1);
      int rounds = 0;
      for (bool is_whole = false; !is_whole; ++rounds) {
        if (none_at_work(rank, saves)) saves.go_on();
        is_whole = saves.take_finished().has_value();
      }
      EXPECT_GE(rounds, 2);
      EXPECT_GT(saves.take_stall(), 0);
    }
  });
  const fs::path waits = folder.path() / "waits/step_3", beside = folder.path() / "beside/step_3";
  EXPECT_EQ(names_in(waits), (std::vector<std::string>{"index.h5", "manifest.json", "rank_00000.h5", "rank_00001.h5"}));
  for (const std::string& name : names_in(waits))
    EXPECT_EQ(testing::read_file(waits / name), testing::read_file(beside / name)) << name;
  EXPECT_EQ(first_of(beside, "rows.weight"), 5);
  EXPECT_EQ(first_of(beside, "made.weight"), 5 + 7 * 30);
  EXPECT_EQ(first_of(folder.path() / "beside/step_4", "rows.weight"), 6);
}

// The ranks wait for the slowest writer, however long it takes.
TEST(Saves, ASlowWriterIsNoHang) {
  const TemporaryFolder folder;
  testing::run_ranks(
      2,
      [&](testing::RankWorld& world) {
        Rank rank(world.comm, "dp2", 1);
        StateDict state;
        const Tensor values = Tensor::zeros(rank.memory(), DType::F32, {2});
        StateEntry& entry = state[world.rank == 0 ? "a" : "b"] = StateEntry::whole(values);
        if (world.rank == 1)
          entry.make = [&] {
            std::this_thread::sleep_for(std::chrono::milliseconds(1200));
            return values;
          };
        Saves saves(rank, never);
        saves.begin(save_of(folder, "run", 3, state), false);
        saves.finish();
        const auto finished = saves.take_finished();
        ASSERT_TRUE(finished);
        EXPECT_TRUE(fs::exists(finished->folder / "manifest.json"));
        EXPECT_GT(finished->seconds, 1.1);
        EXPECT_GT(saves.take_stall(), 1.1);
        EXPECT_EQ(saves.take_stall(), 0);
      },
      std::chrono::milliseconds(400));
}

// One rank cannot write: all throw what it says, at the same place, and what was whole before stays so.
TEST(Saves, WhatFailsOnOneRankFailsOnAll) {
  const TemporaryFolder folder;
  testing::run_ranks(2, [&](testing::RankWorld& world) {
    Rank rank(world.comm, "dp2", 1);
    RankState state(rank, 5);
    Saves saves(rank, never);
    saves.begin(save_of(folder, "run", 1, state.state), true);
    saves.finish();
    StateDict outside = state.state;
    if (world.rank == 1) outside.at("rows.weight").offset = {1001, 0};
    for (const bool beside_steps : {false, true}) {
      Saves failing(rank, never);
      failing.begin(save_of(folder, "run", 2, outside), beside_steps);
      while (!none_at_work(rank, failing)) {
      }
      EXPECT_THAT(error_of([&] { failing.go_on(); }),
                  AllOf(HasSubstr("rank_00001.h5: rows.weight"), HasSubstr("[1001,0]")));
      failing.finish();  // nothing is under way
      EXPECT_FALSE(failing.take_finished());
      if (rank.is_first()) {
        EXPECT_EQ(data::newest_good_checkpoint(folder.path() / "run", [](auto) { ADD_FAILURE(); }),
                  folder.path() / "run/step_1");
      }
      rank.world().barrier();
    }
    saves.begin(save_of(folder, "run", 3, state.state), true);
    saves.finish();
  });
  EXPECT_EQ(names_in(folder.path() / "run"), (std::vector<std::string>{"step_1", "step_3"}));
}

// A folder that goes while it is written to is made again, and has what was to be saved, whatever steps did since.
TEST(Saves, AFolderThatGoesIsMadeAgain) {
  const TemporaryFolder folder;
  testing::run_ranks(2, [&](testing::RankWorld& world) {
    Rank rank(world.comm, "dp2", 1);
    RankState state(rank, 5);
    Saves saves(rank, [&] {
      EXPECT_EQ(world.rank, 0);
      return fs::create_directories(folder.path() / "run");
    });
    saves.begin(save_of(folder, "run", 2, state.state), true);
    state.fill(-1);
    if (rank.is_first()) fs::rename(folder.path() / "run", folder.path() / "renamed");
    rank.world().barrier();
    saves.finish();
  });
  EXPECT_EQ(first_of(folder.path() / "run/step_2", "rows.weight"), 5);
}

// A run that ends by an error gives up what is being written.
TEST(Saves, OneThatIsGivenUpLeavesTheOneBefore) {
  const TemporaryFolder folder;
  testing::run_ranks(2, [&](testing::RankWorld& world) {
    Rank rank(world.comm, "dp2", 1);
    RankState state(rank, 5);
    Saves saves(rank, never);
    saves.begin(save_of(folder, "run", 1, state.state), true);
    saves.finish();
    saves.begin(save_of(folder, "run", 2, state.state), true);
  });
  EXPECT_EQ(names_in(folder.path() / "run"), (std::vector<std::string>{"step_1", "step_2.tmp"}));
  EXPECT_EQ(first_of(folder.path() / "run/step_1", "rows.weight"), 5);
}

}  // namespace
}  // namespace limbeck::launch
