#include "launch/supervision/launches.h"

#include <gmock/gmock.h>

namespace limbeck::launch {
namespace {

using ::testing::HasSubstr;

/// A run that set out at 100 s and did a step every ten seconds, to the ninth; the second start goes on from step 6.
RunProgress nine_steps() {
  RunProgress progress{.starts = {{0, 100}}, .steps = {}};
  for (int step = 1; step <= 9; ++step) progress.steps.push_back({step, 100.0 + 10 * step});
  return progress;
}

TEST(Launches, WhatIsLostIsWhatIsDoneAgainAndTheTimeUntilThen) {
  RunProgress after = nine_steps();
  after.starts.push_back({6, 230});
  after.steps.resize(6);
  after.steps.push_back({7, 240});
  Attempt attempt{.number = 2};
  note_progress(attempt, nine_steps(), after);
  EXPECT_EQ(attempt.from, 6);
  EXPECT_EQ(attempt.to, 7);
  EXPECT_EQ(attempt.steps_lost, 3);
  EXPECT_EQ(attempt.seconds_lost, 70);  // step 6 was done at 160 s first
  EXPECT_TRUE(attempt.has_trained());
}

TEST(Launches, FromTheBeginningAllIsLost) {
  // A run that begins anew begins its list of starts anew.
  RunProgress after{.starts = {{0, 230}}, .steps = {}};
  Attempt attempt{.number = 2};
  note_progress(attempt, nine_steps(), after);
  EXPECT_EQ(attempt.from, 0);
  EXPECT_EQ(attempt.steps_lost, 9);
  EXPECT_EQ(attempt.seconds_lost, 130);
  EXPECT_FALSE(attempt.has_trained());
  after.steps = {{1, 240}, {2, 250}};
  note_progress(attempt, nine_steps(), after);
  EXPECT_EQ(attempt.to, 2);
  EXPECT_TRUE(attempt.has_trained());
}

TEST(Launches, OfARunAndItsBaselineItIsTheOneThatItCameTo) {
  // The run has all its nine steps, and its baseline sets out for the first time: nothing of it can be lost.
  RunProgress run = nine_steps();
  run.starts.push_back({9, 230});
  const RunProgress begun{.starts = {{0, 240}}, .steps = {{1, 250}, {2, 260}, {3, 270}}};
  Attempt attempt{.number = 2};
  note_progress(attempt, nine_steps(), run);
  note_progress(attempt, {}, begun);
  EXPECT_EQ(attempt.from, 0);
  EXPECT_EQ(attempt.to, 3);
  EXPECT_EQ(attempt.steps_lost, 0);
  EXPECT_EQ(attempt.seconds_lost, 40);  // step 9 was done at 190 s
  // In the attempt behind it the baseline goes on from its second step: what was lost is lost there.
  RunProgress resumed = run;
  resumed.starts.push_back({9, 280});
  RunProgress further = begun;
  further.starts.push_back({2, 290});
  further.steps = {{1, 250}, {2, 260}, {3, 300}, {4, 310}};
  Attempt next{.number = 3};
  note_progress(next, run, resumed);
  note_progress(next, begun, further);
  EXPECT_EQ(next.from, 2);
  EXPECT_EQ(next.to, 4);
  EXPECT_EQ(next.steps_lost, 1);
  EXPECT_EQ(next.seconds_lost, 30);
}

TEST(Launches, ASignalObeyedIsNoFailure) {
  Attempt attempt{.ended = Ended::Failed, .cause = Cause{.kind = CauseKind::Error, .what = "x"}};
  EXPECT_TRUE(attempt.has_obeyed());  // before training
  attempt.from = 0;
  attempt.to = 9;
  EXPECT_FALSE(attempt.has_obeyed());
  attempt.cause->kind = CauseKind::Signal;  // in the measurement behind it
  EXPECT_TRUE(attempt.has_obeyed());
}

TEST(Launches, WhatWasThereBeforeIsNotDone) {
  // Another start came, and ended before it cut the metrics back.
  RunProgress after = nine_steps();
  after.starts.push_back({6, 230});
  Attempt attempt{.number = 2};
  note_progress(attempt, nine_steps(), after);
  EXPECT_EQ(attempt.to, 6);
  // No start came.
  Attempt none{.number = 2};
  note_progress(none, nine_steps(), nine_steps());
  EXPECT_FALSE(none.from || none.to || none.steps_lost || none.seconds_lost);
  // The first attempt of a launch loses nothing of its own.
  Attempt first{.number = 1};
  note_progress(first, nine_steps(), after);
  EXPECT_EQ(first.from, 6);
  EXPECT_FALSE(first.steps_lost);
}

TEST(Launches, ALineAndATable) {
  const Attempt attempt{.number = 2,
                        .ranks = 4,
                        .time = 5,
                        .seconds = 7.5,
                        .code = 137,
                        .ended = Ended::Failed,
                        .cause = Cause{.kind = CauseKind::Signal,
                                       .what = "ended by signal 9",
                                       .rank = 1,
                                       .host = "n1",
                                       .step = 8,
                                       .operation = "barrier in group world"},
                        .from = 6,
                        .to = 7,
                        .steps_lost = 3,
                        .seconds_lost = 70};
  EXPECT_EQ(to_json(attempt).dump(),
            R"({"attempt":2,"time":5.0,"ranks":4,"from":6,"to":7,"seconds":7.5,"ended":"failed","code":137,)"
            R"("cause":"ended by signal 9","rank":1,"host":"n1","at_step":8,"operation":"barrier in group world",)"
            R"("steps_lost":3,"seconds_lost":70.0})");
  const Attempt without{.without = {"n2"}};
  EXPECT_EQ(to_json(without)["without"], std::vector<std::string>{"n2"});
  const std::string text = to_text(std::vector<Attempt>{{.number = 1, .ranks = 4}, attempt});
  EXPECT_THAT(text, HasSubstr("Launched 2 times; lost: 3 steps, 70 s"));
  EXPECT_THAT(text, HasSubstr("rank 1 on n1, at step 8, last operation barrier in group world: ended by signal 9"));
}

}  // namespace
}  // namespace limbeck::launch
