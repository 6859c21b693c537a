#include "launch/run/same_everywhere.h"

#include <gmock/gmock.h>

#include <cstdint>
#include <memory>
#include <string>

#include "parallel/comm/counted_comm.h"
#include "tests/support/temporary_folder.h"
#include "tests/support/thread_ranks.h"

namespace limbeck::launch {
namespace {

using ::testing::HasSubstr;

std::string difference(const std::string& a, const std::string& b) { return first_difference(a, b, 3); }

TEST(FirstDifference, NamesTheFieldByItsSections) {
  EXPECT_EQ(difference("program: 1\na {\n  b {\n    c: 1\n  }\n  d: 2\n}\ne: 3\n",
                       "program: 1\na {\n  b {\n    c: 1\n  }\n  d: 4\n}\ne: 5\n"),
            "a.d is 4 on rank 3 and 2 on rank 0");
  EXPECT_EQ(difference("a {\n  b {\n    c: 1\n  }\n}\n", "a {\n  b {\n    c: 2\n  }\n}\n"),
            "a.b.c is 2 on rank 3 and 1 on rank 0");
  EXPECT_EQ(difference("a {\n}\nb {\n}\nx: 1\n", "a {\n}\nb {\n}\nx: 2\n"), "x is 2 on rank 3 and 1 on rank 0");
}

TEST(FirstDifference, NamesWhatOneOfThemLacks) {
  EXPECT_EQ(difference("a {\n  x: 1\n  x: 2\n}\n", "a {\n  x: 1\n}\n"),
            "the end of a stands on rank 3 where rank 0 has a.x");
  EXPECT_EQ(difference("a: 1\n", "a: 1\nb: 2\n"), "b stands on rank 3 where rank 0 has nothing");
  EXPECT_EQ(difference("teacher {\n}\n", "data {\n}\n"), "data stands on rank 3 where rank 0 has teacher");
}

TEST(FirstDifference, IsShort) {
  EXPECT_LT(difference("prompt: \"" + std::string(1 << 20, 'a') + "\"\n", "prompt: \"b\"\n").size(), 200U);
}

TEST(CheckSameEverywhere, EveryRankThrowsTheSame) {
  testing::run_ranks(3, [](testing::RankWorld& world) {
    check_same_everywhere(*world.comm, "train {\n  seed: 1\n}\n");
    const std::string error = testing::error_of([&] {
      check_same_everywhere(*world.comm, world.rank == 1 ? "train {\n  seed: 9\n}\n" : "train {\n  seed: 1\n}\n");
    });
    EXPECT_EQ(error, "train.seed is 9 on rank 1 and 1 on rank 0, expected the same on all ranks");
  });
}

// The first one's and that of one that differs; eight would be 7 KiB of each rank.
TEST(CheckSameEverywhere, TwoTextsAreExchanged) {
  testing::run_ranks(8, [](testing::RankWorld& world) {
    const auto sent = std::make_shared<parallel::TrafficLog>();
    const auto comm = parallel::counted(world.comm, sent);
    const std::string text = "prompt: " + std::string(1 << 10, world.rank < 5 ? 'a' : 'b') + "\n";
    EXPECT_THAT(testing::error_of([&] { check_same_everywhere(*comm, text); }), HasSubstr("b... on rank 5"));
    std::int64_t bytes = 0;
    for (const parallel::ExchangeCount& exchange : sent->entries()) bytes += exchange.bytes;
    EXPECT_LT(bytes, 5 << 10);
  });
}

TEST(RunIdentity, EveryFieldOfTheConfigCounts) {
  const RunConfig config = parse_config("data { text: \"a\" }", "x");
  EXPECT_EQ(run_identity(config, "steps: 3\n"), run_identity(config, "steps: 3\n"));
  EXPECT_THAT(run_identity(config, "steps: 3\n"), HasSubstr("steps: 3\n"));
  for (const char* set : {"optimizer.rate=0.5", "train.seed=9", "data.seed=9", "parallel.deadline_s=3"})
    EXPECT_NE(run_identity(parse_config("data { text: \"a\" }", "x", {set}), ""), run_identity(config, "")) << set;
}

}  // namespace
}  // namespace limbeck::launch
