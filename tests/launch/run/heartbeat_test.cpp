#include "launch/run/heartbeat.h"

#include <gmock/gmock.h>
#include <unistd.h>

#include <chrono>
#include <fstream>
#include <optional>
#include <string>
#include <thread>

#include "parallel/comm/engine.h"
#include "tests/support/temporary_folder.h"

namespace limbeck::launch {
namespace {

namespace fs = std::filesystem;
using namespace std::chrono_literals;

/// Waits for something that a thread does, for ten seconds at most.
template <class F>
bool comes_true(F is_true) {
  for (int i = 0; i < 1000; ++i) {
    if (is_true()) return true;
    std::this_thread::sleep_for(10ms);
  }
  return false;
}

/// An operation that never ends.
class Endless final : public parallel::Operation {
 public:
  bool progress() override { return false; }
};

TEST(Heartbeat, SaysWhereTheRankIs) {
  const limbeck::testing::TemporaryFolder folder;
  parallel::Engine engine(
      3, 60s, {.stop = [](const std::string&) {}, .who_is_missing = [](const auto&) { return parallel::HeldUp(); }});
  engine.start();
  Heartbeat heartbeat(folder.path(), 3);
  heartbeat.begin();
  const fs::path file = beat_file(folder.path(), 3);
  ASSERT_TRUE(comes_true([&] { return read_beat(file).has_value(); }));
  const Beat first = *read_beat(file);
  EXPECT_EQ(first.rank, 3);
  EXPECT_EQ(first.pid, ::getpid());
  EXPECT_EQ(first.host, host_name());
  EXPECT_EQ(first.step, 0);
  EXPECT_EQ(first.operations, 0);
  {
    const Heartbeat::Followed followed(heartbeat, engine);
    engine.set_step(17);
    const auto world = std::make_shared<const std::string>("world");
    std::optional<parallel::FileWait> disk(std::in_place, &engine.file_waits(),
                                           [] { return "reads " + std::string(2000, 'x'); });
    auto handle = engine.submit({}, {.of = core::Subject("a stop"), .group = world}, std::make_shared<Endless>());
    ASSERT_TRUE(comes_true([&] { return read_beat(file)->operations == 1; }));
    const Beat now = *read_beat(file);
    EXPECT_EQ(now.step, 17);
    EXPECT_EQ(now.operation, "barrier (a stop) in group world");
    EXPECT_FALSE(now.is_waiting);
    EXPECT_THAT(now.disk, ::testing::StartsWith("reads xxx"));  // as much as there is room for
    disk.reset();
    EXPECT_GT(now.time, first.time);
    const std::jthread waits([&] { EXPECT_ANY_THROW(handle.wait()); });
    EXPECT_TRUE(comes_true([&] { return read_beat(file)->is_waiting; }));
    EXPECT_EQ(read_beat(file)->disk, "");
    engine.fail(3, "the test is over");
  }
  EXPECT_EQ(fs::file_size(file), 1024U);  // as docs/runs.md says
}

TEST(Heartbeat, AFileIsOverwrittenInPlaceWhateverItsNames) {
  const limbeck::testing::TemporaryFolder folder;
  const fs::path file = beat_file(folder.path(), 0);
  std::ofstream(file) << std::string(1024, 'x');
  EXPECT_FALSE(read_beat(file).has_value());
  Heartbeat heartbeat(folder.path(), 0);
  heartbeat.begin();
  ASSERT_TRUE(comes_true([&] { return read_beat(file).has_value(); }));
  std::ifstream in(file);
  std::string line;
  std::getline(in, line);
  EXPECT_EQ(line.size(), 1023U);
  EXPECT_FALSE(std::getline(in, line));
}

TEST(Heartbeat, MakesNoFolder) {
  const limbeck::testing::TemporaryFolder folder;
  {
    Heartbeat heartbeat(folder / "ranks", 0);
    heartbeat.begin();
  }
  EXPECT_FALSE(fs::exists(folder / "ranks"));
  EXPECT_TRUE(read_beats(folder / "ranks").empty());
}

TEST(Heartbeat, AllAreReadByRank) {
  const limbeck::testing::TemporaryFolder folder;
  for (const int rank : {10, 2, 0}) {
    Heartbeat heartbeat(folder.path(), rank);
    heartbeat.begin();
  }
  std::ofstream(folder / "7.json") << "{\"rank\": 7";  // half written
  std::vector<int> ranks;
  for (const Beat& beat : read_beats(folder.path())) ranks.push_back(beat.rank);
  EXPECT_THAT(ranks, ::testing::ElementsAre(0, 2, 10));
}

}  // namespace
}  // namespace limbeck::launch
