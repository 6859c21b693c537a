// Ranks that wait for disks, which are waited for as long as that takes.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "core/tensor.h"
#include "parallel/comm/engine.h"
#include "tests/support/thread_ranks.h"

namespace limbeck::testing {
namespace {

using core::Tensor;
using parallel::Deadline;
using parallel::Engine;
using parallel::FileWait;
using parallel::HeldUp;
using parallel::Missing;
using parallel::WaitLimit;
using parallel::Whereabouts;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using namespace std::chrono_literals;

constexpr Deadline deadline = 400ms;

std::string reads_text() { return "reads text.bin"; }

/// What each rank's error says, if it has one; they begin together, at step 7.
std::vector<std::string> errors_of(int num_ranks, const std::function<void(RankWorld&)>& body) {
  std::vector<std::string> errors(static_cast<std::size_t>(num_ranks));
  run_ranks(
      num_ranks,
      [&](RankWorld& world) {
        world.comm->note_step(7);
        world.comm->barrier();
        try {
          body(world);
        } catch (const core::Error& e) {
          errors[static_cast<std::size_t>(world.rank)] = e.what();
        }
      },
      deadline);
  return errors;
}

void sleep_until_all_is_over(Engine& engine) {
  for (int i = 0; i < 2000 && !engine.has_failed(); ++i) std::this_thread::sleep_for(5ms);
}

/// Rank 0 waits for rank 1, which waits in what stands behind a sum that rank 3 has not come to.
TEST(DiskWaits, OthersWaitAsLongAsADiskTakes) {
  const auto memory = core::Memory::cpu(1);
  const auto errors = errors_of(4, [&](RankWorld& world) {
    const auto column = world.comm->split(world.rank / 2, world.rank, "column");
    const auto row = world.comm->split(world.rank % 2, world.rank, "row");
    if (world.rank == 3) {
      const FileWait scope(&world.comm->engine().file_waits(), reads_text);
      std::this_thread::sleep_for(3 * deadline / 2);
    }
    if (world.rank == 1 || world.rank == 3) {
      core::CommHandle sum = row->all_reduce_async(Tensor::zeros(memory, core::DType::F32, {8}), core::Reduce::Sum);
      row->barrier();
      sum.wait();
    }
    if (world.rank < 2) column->barrier();
  });
  EXPECT_THAT(errors, ::testing::Each(""));
}

TEST(DiskWaits, WhoSleepsWithoutOneIsNamed) {
  const auto memory = core::Memory::cpu(1);
  const auto errors = errors_of(2, [&](RankWorld& world) {
    Engine& engine = world.comm->engine();
    { const FileWait scope(&engine.file_waits(), reads_text); }
    if (world.rank == 1) return sleep_until_all_is_over(engine);
    // Which nobody waits for, before what rank 0 waits for.
    const auto sum = world.comm->all_reduce_async(Tensor::zeros(memory, core::DType::F32, {8}), core::Reduce::Sum);
    world.comm->barrier();
  });
  EXPECT_THAT(errors[0], HasSubstr("no end after 0.4 s (parallel.deadline_s); rank 1 has not come: it is at step 7"));
}

TEST(DiskWaits, ADiskIsNoExcuseForAnotherRank) {
  const auto errors = errors_of(3, [](RankWorld& world) {
    Engine& engine = world.comm->engine();
    std::optional<FileWait> scope;
    if (world.rank == 1) scope.emplace(&engine.file_waits(), reads_text);
    if (world.rank > 0) return sleep_until_all_is_over(engine);
    world.comm->barrier();
  });
  EXPECT_THAT(errors[0],
              HasSubstr("(parallel.deadline_s); rank 1 waits for a disk at step 7: it reads text.bin; rank 2 "
                        "has not come: it is at step 7"));
}

/// Rank 0 waits for these ranks, of which each says so much of itself.
HeldUp held_up_by(const std::vector<int>& ranks, const std::map<int, std::optional<Whereabouts>>& said) {
  std::vector<Missing> missing;
  for (const int rank : ranks) missing.push_back({.rank = rank, .heard = {}});
  return parallel::tell_missing(missing, [&](int rank) { return said.at(rank); });
}

TEST(DiskWaits, HoldUpWhereEachAtTheEndOfAChainHasOne) {
  const Whereabouts reads{.at = {.step = 7, .number = 1, .operation = "a sum"}, .disk = "reads a"};
  const Whereabouts computes{.at = reads.at};
  const auto waits_for = [](int rank) {
    return Whereabouts{.at = {}, .is_waiting = true, .waits_for = {{.rank = rank, .heard = {}}}, .disk = "reads b"};
  };
  EXPECT_TRUE(held_up_by({1}, {{1, reads}}).only_by_disks);
  EXPECT_EQ(held_up_by({1}, {{1, reads}}).who, "; rank 1 waits for a disk at step 7: it reads a");
  EXPECT_TRUE(held_up_by({1, 2}, {{1, reads}, {2, waits_for(3)}, {3, reads}}).only_by_disks);
  EXPECT_FALSE(held_up_by({1, 2}, {{1, reads}, {2, computes}}).only_by_disks);
  EXPECT_FALSE(held_up_by({1, 2}, {{1, computes}, {2, reads}}).only_by_disks);
  EXPECT_FALSE(held_up_by({1, 2}, {{1, reads}, {2, std::nullopt}}).only_by_disks);
  EXPECT_FALSE(held_up_by({2}, {{2, waits_for(3)}, {3, computes}}).only_by_disks);
  EXPECT_FALSE(held_up_by({1}, {{1, waits_for(2)}, {2, waits_for(1)}}).only_by_disks);
  EXPECT_FALSE(held_up_by({}, {}).only_by_disks);
  EXPECT_EQ(held_up_by({}, {}).who, "");
}

TEST(DiskWaits, TheDeadlineCountsAnewFromTheLastLookThatFindsOne) {
  const WaitLimit::Clock::time_point begin{};
  WaitLimit limit(400ms, begin);
  EXPECT_EQ(limit.next_look(), begin + 101ms);
  EXPECT_FALSE(limit.misses(false, begin + 101ms));
  EXPECT_FALSE(limit.misses(true, begin + 350ms));
  EXPECT_EQ(limit.next_look(), begin + 451ms);
  EXPECT_FALSE(limit.misses(false, begin + 700ms));
  EXPECT_EQ(limit.next_look(), begin + 750ms);
  EXPECT_TRUE(limit.misses(false, begin + 750ms));
  WaitLimit without(400ms, begin);
  EXPECT_FALSE(without.misses(false, begin + 399ms));
  EXPECT_TRUE(without.misses(false, begin + 400ms));
}

TEST(DiskWaits, ARankSaysOnceThatItWaitsForLong) {
  std::vector<std::string> said;
  Engine engine(3, 20ms,
                {.stop = [](const std::string&) {},
                 .who_is_missing = [](const auto&) { return HeldUp(); },
                 .warn = [&](const std::string& line) { said.push_back(line); }});
  EXPECT_EQ(engine.answer().disk, "");
  {
    const FileWait outer(&engine.file_waits(), [] { return "reads a model"; });
    const FileWait scope(&engine.file_waits(), reads_text);
    std::this_thread::sleep_for(30ms);
    EXPECT_EQ(engine.whereabouts().disk, "reads text.bin");
    EXPECT_TRUE(said.empty());  // nobody waits for it
    for (int i = 0; i < 3; ++i) EXPECT_EQ(engine.answer().disk, "reads text.bin");
  }
  EXPECT_EQ(engine.answer().disk, "");
  EXPECT_THAT(said, ElementsAre("rank 3 has waited for a disk for more than 0.02 s (parallel.deadline_s): it reads "
                                "text.bin; the others wait for it, as long as that takes"));
}

}  // namespace
}  // namespace limbeck::testing
