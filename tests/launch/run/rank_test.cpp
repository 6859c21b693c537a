#include "launch/run/rank.h"

#include <gmock/gmock.h>

#include <atomic>
#include <thread>

#include "core/error.h"
#include "parallel/comm/engine.h"
#include "tests/support/temporary_folder.h"
#include "tests/support/thread_ranks.h"

namespace limbeck::launch {
namespace {

using namespace std::chrono_literals;
using testing::error_of;
using testing::RankWorld;

// On a GPU; here in a memory that the host cannot read either.
TEST(Rank, MakesItsGroupsFirstCollectivesAtTheStart) {
  testing::run_ranks(2, [](RankWorld& world) {
    const auto calls_of = [&](const core::MemoryPtr& memory) {
      const std::int64_t before = world.comm->engine().whereabouts().at.number;
      const Rank rank(world.comm, "tp2", 1, false, memory);
      return world.comm->engine().whereabouts().at.number - before;
    };
    EXPECT_GT(calls_of(core::Memory::hidden_cpu(1)), calls_of(core::Memory::cpu(1)));
  });
}

/// Sums of the world, sums and parts of tp, and rows to where they are wanted.
TEST(Rank, MakesFirstCollectivesOfATeachersLayoutToo) {
  testing::run_ranks(2, [](RankWorld& world) {
    const auto calls = [&] { return world.comm->engine().whereabouts().at.number; };
    const auto calls_of = [&](const core::MemoryPtr& memory) {
      const Rank rank(world.comm, "dp2", 1, false, memory);
      const std::int64_t before = calls();
      const Rank side(rank, "tp2", parallel::ExpertExchange::Auto);
      return calls() - before;
    };
    EXPECT_EQ(calls_of(core::Memory::hidden_cpu(1)) - calls_of(core::Memory::cpu(1)), 2 + 4 + 1);
  });
}

TEST(StopIsAgreed, NumbersBecomeTheGreatestOfAnyRank) {
  testing::run_ranks(3, [](RankWorld& world) {
    Rank rank(world.comm, "dp3", 1);
    std::vector<std::int64_t> numbers = {world.rank, -world.rank, 7}, more = {5 - world.rank};
    EXPECT_FALSE(stop_is_agreed(rank, {numbers, more}));
    EXPECT_EQ(numbers, (std::vector<std::int64_t>{2, 0, 7}));
    EXPECT_EQ(more, std::vector<std::int64_t>{5});
  });
}

TEST(OnFirstRank, MayTakeLongerThanTheDeadline) {
  std::atomic<int> worked = 0;
  testing::run_ranks(
      3,
      [&](RankWorld& world) {
        Rank rank(world.comm, "dp3", 1);
        on_first_rank(rank, [&] {
          std::this_thread::sleep_for(1500ms);
          ++worked;
        });
        EXPECT_GE(worked, 1);  // the first rank may be at the next already
        on_first_rank(rank, [&] { ++worked; });
        world.comm->barrier();
        EXPECT_EQ(worked, 2);
      },
      500ms);
}

TEST(WhileOthersHear, EachRankMayTakeLongerThanTheDeadline) {
  for (const int slowest : {0, 1, 2}) {
    testing::run_ranks(
        3,
        [&](RankWorld& world) {
          Rank rank(world.comm, "dp3", 1);
          while_others_hear(rank, [&] {
            if (world.rank == slowest) std::this_thread::sleep_for(1200ms);
          });
          world.comm->barrier();
        },
        500ms);
  }
}

TEST(WhileOthersHear, ARankThatFailsStopsTheOthers) {
  const std::string error = error_of([] {
    testing::run_ranks(3, [](RankWorld& world) {
      Rank rank(world.comm, "dp3", 1);
      while_others_hear(rank, [&] {
        if (world.rank == 2) core::fail("rank_00002.h5: no space left");
      });
      ADD_FAILURE() << "rank " << world.rank << " goes on";
    });
  });
  EXPECT_EQ(error, "rank_00002.h5: no space left");
}

TEST(OnFirstRank, EveryRankThrowsWhatItThrows) {
  testing::run_ranks(2, [&](RankWorld& world) {
    Rank rank(world.comm, "dp2", 1);
    EXPECT_THROW(on_first_rank(rank, [] { core::fail_usage("wrong use"); }), core::UsageError);
    EXPECT_EQ(error_of([&] { on_first_rank(rank, [] { core::fail("no such luck"); }); }), "no such luck");
  });
}

TEST(OnEveryRank, AllThrowWhatOneThrowsAndGoOnTogether) {
  testing::run_ranks(3, [&](RankWorld& world) {
    Rank rank(world.comm, "dp3", 1);
    const auto work = [&] {
      if (world.rank == 2) core::fail("rank_00002.h5: no space left");
    };
    EXPECT_EQ(error_of([&] { on_every_rank(rank, work); }), "rank_00002.h5: no space left");
    EXPECT_EQ(gather_strings(rank, "here"), std::vector<std::string>(3, "here"));
  });
}

TEST(OnFirstRank, AFirstRankThatNeverComesIsMissedAfterTheDeadline) {
  const std::string error = error_of([] {
    testing::run_ranks(
        2,
        [](RankWorld& world) {
          Rank rank(world.comm, "dp2", 1);
          if (!rank.is_first()) on_first_rank(rank, [] {});
          std::this_thread::sleep_for(600ms);
        },
        200ms);
  });
  EXPECT_THAT(error, ::testing::HasSubstr("parallel.deadline_s"));
}

}  // namespace
}  // namespace limbeck::launch
