#include "parallel/threads/run_ranks.h"

#include <gmock/gmock.h>

#include <atomic>
#include <mutex>
#include <set>

namespace limbeck::parallel {
namespace {

using ::testing::ElementsAre;
using ::testing::ThrowsMessage;

TEST(RunRanks, EachRankRunsOnce) {
  std::mutex mutex;
  std::multiset<int> ranks;
  run_ranks(3, [&](const std::shared_ptr<WorldComm>& world) {
    EXPECT_EQ(world->size(), 3);
    world->barrier();
    const std::scoped_lock lock(mutex);
    ranks.insert(world->rank());
  });
  EXPECT_THAT(ranks, ElementsAre(0, 1, 2));
}

TEST(RunRanks, OneThatThrowsStopsTheOthersAndIsHeard) {
  std::atomic<int> stopped = 0;
  const auto run = [&] {
    run_ranks(3, [&](const std::shared_ptr<WorldComm>& world) {
      if (world->rank() == 1) throw core::Error("no room");
      try {
        world->barrier();
      } catch (const PeerError&) {
        ++stopped;
        throw;
      }
    });
  };
  try {
    run();
    ADD_FAILURE() << "nothing was thrown";
  } catch (const PeerError& echo) {
    ADD_FAILURE() << "of another rank: " << echo.what();
  } catch (const core::Error& error) {
    EXPECT_STREQ(error.what(), "no room");
  }
  EXPECT_EQ(stopped, 2);
}

TEST(RunRanks, TheLowestRankIsHeardFirst) {
  const auto run = [] {
    run_ranks(4, [](const std::shared_ptr<WorldComm>& world) {
      if (world->rank() >= 2) core::fail("rank {} fails", world->rank());
    });
  };
  for (int i = 0; i < 10; ++i) EXPECT_THAT(run, ThrowsMessage<core::Error>("rank 2 fails"));
}

TEST(RunRanks, BadInput) {
  EXPECT_THROW(run_ranks(0, [](const std::shared_ptr<WorldComm>& /*world*/) {}), core::UsageError);
}

}  // namespace
}  // namespace limbeck::parallel
