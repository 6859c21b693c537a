#include "launch/supervision/vigil.h"

#include <gmock/gmock.h>

#include <fstream>

#include "tests/support/temporary_folder.h"

namespace limbeck::launch {
namespace {

using namespace std::chrono_literals;
using ::testing::HasSubstr;

class VigilTest : public ::testing::Test {
 protected:
  void beat(int rank, double time, std::int64_t step, std::int64_t operations, bool is_waiting = true,
            const std::string& host = "n", const std::string& disk = "") {
    std::string text = to_json(Beat{.rank = rank,
                                    .host = host,
                                    .pid = 1,
                                    .step = step,
                                    .operations = operations,
                                    .operation = "barrier in group world",
                                    .is_waiting = is_waiting,
                                    .disk = disk,
                                    .time = time})
                           .dump();
    text.resize(1023, ' ');
    std::ofstream(beat_file(folder_.path(), rank)) << text << '\n';
  }
  /// `seconds` after the beginning.
  std::optional<Cause> look(double seconds) {
    return vigil_.look(begin_ + std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(seconds)));
  }

  limbeck::testing::TemporaryFolder folder_;
  Clock::time_point begin_ = Clock::now();
  Vigil vigil_{folder_.path(), 2, {.silent_after = 10s, .step_deadline = 60s}, begin_};
};

TEST_F(VigilTest, ARankWithoutASignIsSilentAfterItsTime) {
  for (int s = 1; s <= 20; ++s) {
    beat(0, s, s, s);
    if (s <= 5) beat(1, s, s, s);
    const auto cause = look(s);
    if (s <= 15) {
      EXPECT_FALSE(cause) << s;
      continue;
    }
    ASSERT_TRUE(cause) << s;
    EXPECT_EQ(cause->kind, CauseKind::Silent);
    EXPECT_EQ(cause->rank, 1);
    EXPECT_EQ(cause->what, "gives no sign of life for 10 s (--silent-after)");
  }
}

TEST_F(VigilTest, AHostIsLostWhereItsRanksAloneAreSilent) {
  /// What is lost when ranks 0, 1 and 2 are silent since those seconds; 1 and 2 are on the host b.
  const auto lost = [&](std::vector<int> since) {
    Vigil vigil(folder_.path(), 3, {.silent_after = 10s, .step_deadline = 0s}, begin_);
    for (int s = 1; s <= 60; ++s) {
      for (std::size_t rank = 0; rank < 3; ++rank)
        if (s <= since[rank]) beat(static_cast<int>(rank), s, s, s, true, rank == 0 ? "a" : "b");
      if (const auto cause = vigil.look(begin_ + std::chrono::seconds(s))) return cause->lost;
    }
    ADD_FAILURE() << "nobody is silent";
    return std::vector<std::string>{};
  };
  using ::testing::ElementsAre;
  EXPECT_THAT(lost({60, 20, 21}), ElementsAre("b"));
  EXPECT_THAT(lost({60, 60, 20}), ElementsAre("b"));
  EXPECT_THAT(lost({20, 60, 60}), ElementsAre("a"));
  // A file system that stands still, which not all notice in the same second.
  EXPECT_THAT(lost({20, 20, 20}), ElementsAre());
  EXPECT_THAT(lost({20, 22, 22}), ElementsAre());
}

TEST_F(VigilTest, AClockThatIsWrongIsNotAsked) {
  beat(0, 1e9, 1, 1);
  beat(1, -5, 1, 1);
  EXPECT_FALSE(look(1));
  beat(0, 1e9 + 1, 1, 2);
  beat(1, -4, 1, 2);
  EXPECT_FALSE(look(11));
}

TEST_F(VigilTest, OneThatHasNotBegunHasTenTimesAsLong) {
  for (int s = 0; s <= 100; s += 5) {
    beat(0, s, 0, s);
    EXPECT_FALSE(look(s)) << s;
  }
  beat(0, 105, 0, 105);
  const auto cause = look(105);
  ASSERT_TRUE(cause);
  EXPECT_EQ(cause->rank, 1);
  EXPECT_THAT(cause->what, HasSubstr("has given no sign of life"));
}

TEST_F(VigilTest, SignsOfAnotherAttemptAreNone) {
  beat(0, 5, 3, 3);
  beat(1, 5, 3, 3);
  Vigil next(folder_.path(), 2, {.silent_after = 10s, .step_deadline = 60s}, begin_);
  EXPECT_FALSE(next.look(begin_ + 50s));  // neither has begun
  beat(0, 50, 3, 3);
  EXPECT_FALSE(next.look(begin_ + 51s));
  const auto cause = next.look(begin_ + 62s);
  ASSERT_TRUE(cause);
  EXPECT_EQ(cause->rank, 0);
}

TEST_F(VigilTest, RanksThatLiveAndComeNoFurtherAreHung) {
  for (int s = 0; s <= 70; s += 5) {
    beat(0, s, 7, std::min(s, 5), /*is_waiting=*/true);
    beat(1, s, 7, std::min(s, 5), /*is_waiting=*/false);
    const auto cause = look(s);
    EXPECT_EQ(cause.has_value(), s > 65) << s;
    if (!cause) continue;
    EXPECT_EQ(cause->kind, CauseKind::Hung);
    EXPECT_EQ(cause->rank, 1);  // who does not wait
  }
}

TEST_F(VigilTest, BeforeTheFirstStepTheyHaveTenTimesAsLong) {
  for (int s = 0; s <= 610; s += 5) {
    beat(0, s, 0, std::min(s, 5));
    beat(1, s, 0, std::min(s, 5));
    const auto cause = look(s);
    EXPECT_EQ(cause.has_value(), s > 605) << s;
    if (!cause) continue;
    EXPECT_THAT(cause->what, HasSubstr("no rank has come further for 600 s"));
  }
}

/// Rank 0 waits, rank 1 reads until 200 s and comes to no other exchange.
TEST_F(VigilTest, BehindADiskRanksHaveTheUsualTimeAgain) {
  for (int s = 5; s <= 270; s += 5) {
    beat(0, s, 7, 5, /*is_waiting=*/true);
    beat(1, s, 7, 5, /*is_waiting=*/false, "n", s <= 200 ? "reads text.bin" : "");
    const auto cause = look(s);
    EXPECT_EQ(cause.has_value(), s > 260) << s;
    if (!cause) continue;
    EXPECT_EQ(cause->rank, 1);
    EXPECT_EQ(cause->what, "no rank has come further for 60 s (--step-deadline)");
  }
}

TEST_F(VigilTest, ADiskHasTenTimesAsLong) {
  for (int s = 5; s <= 620; s += 5) {
    beat(0, s, 7, 5, /*is_waiting=*/true);
    beat(1, s, 7, 5, /*is_waiting=*/false, "n", "reads text.bin");
    const auto cause = look(s);
    EXPECT_EQ(cause.has_value(), s > 605) << s;
    if (!cause) continue;
    EXPECT_EQ(cause->rank, 1);
    EXPECT_EQ(cause->what, "no rank has come further for 600 s (--step-deadline): it reads text.bin");
  }
}

TEST_F(VigilTest, ADiskIsNoExcuseForAnotherRank) {
  for (int s = 5; s <= 80; s += 5) {
    beat(0, s, 7, 5, /*is_waiting=*/false, "n", "reads text.bin");
    beat(1, s, 7, 5, /*is_waiting=*/false);
    const auto cause = look(s);
    EXPECT_EQ(cause.has_value(), s > 65) << s;
    if (!cause) continue;
    EXPECT_EQ(cause->rank, 1);
    EXPECT_THAT(cause->what, HasSubstr("for 60 s"));
  }
}

TEST_F(VigilTest, TimeInWhichAllWereStoppedCountsForNothing) {
  // Both limits are met by far at 100 s, of which 90 s are skipped.
  beat(0, 1, 7, 1);
  beat(1, 1, 7, 1);
  EXPECT_FALSE(look(1));
  vigil_.skip(90s);
  EXPECT_FALSE(look(100));
  beat(0, 101, 7, 1);
  beat(1, 101, 7, 1);
  EXPECT_FALSE(look(101));
  for (int s = 105; s <= 160; s += 5) {  // hung from 91 s on
    beat(0, s, 7, 1);
    beat(1, s, 7, 1);
    EXPECT_EQ(look(s).has_value(), s > 151) << s;
  }
}

TEST_F(VigilTest, OneRanksProgressIsEnough) {
  for (int s = 0; s <= 200; s += 5) {
    beat(0, s, 7, 5);
    beat(1, s, 7, s);
    EXPECT_FALSE(look(s)) << s;
  }
}

}  // namespace
}  // namespace limbeck::launch
