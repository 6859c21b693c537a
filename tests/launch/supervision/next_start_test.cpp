#include "launch/supervision/next_start.h"

#include <gmock/gmock.h>

namespace limbeck::launch {
namespace {

using ::testing::HasSubstr;

Attempt failed(int ranks, std::int64_t from, std::int64_t to, int rank, const std::string& what,
               const std::string& host = "a") {
  return {.ranks = ranks,
          .code = 1,
          .ended = Ended::Failed,
          .cause = Cause{.kind = CauseKind::Signal, .what = what, .rank = rank, .host = host},
          .from = from,
          .to = to};
}

ParallelConfig parallel(const std::string& layout, std::int64_t teacher_ranks = 0, std::int64_t shard_ranks = 0) {
  ParallelConfig config;
  config.layout = layout;
  config.teacher_ranks = teacher_ranks;
  config.shard_ranks = shard_ranks;
  return config;
}

NextStart after(std::vector<Attempt> attempts, const RestartLimits& limits = {}, const ParallelConfig& config = {},
                int num_hosts = 1) {
  return next_start(attempts, limits, config, {.count = num_hosts});
}

/// Of two hosts, of which "b" can be left out.
NextStart without_b(std::vector<Attempt> attempts, int room, const RestartLimits& limits = {}, int num_far = 2) {
  const auto room_without = [=](const std::string& host) {
    return host.starts_with("b") ? std::optional(room) : std::nullopt;
  };
  return next_start(attempts, limits, {}, {.count = 2, .num_far = num_far, .room_without = room_without});
}

/// Of another kind, by which its host may be lost.
Attempt ended(Attempt attempt, CauseKind kind) {
  attempt.cause->kind = kind;
  if (kind == CauseKind::Unavailable || kind == CauseKind::Silent) attempt.cause->lost = {attempt.cause->host};
  return attempt;
}

/// ssh does not reach these.
Attempt unreached(const std::vector<std::string>& hosts) {
  Attempt attempt = failed(4, 0, 0, 0, "ssh: connect to host b port 22: No route to host", hosts[0]);
  attempt.from = attempt.to = std::nullopt;
  attempt.cause->kind = CauseKind::Unavailable;
  attempt.cause->rank = std::nullopt;
  attempt.cause->lost = hosts;
  attempt.cause->is_unreached = true;
  return attempt;
}

TEST(NextStart, AFailureIsFollowedByAnotherAttempt) {
  EXPECT_EQ(after({failed(4, 0, 9, 1, "ended by signal 9")}).ranks, 4);
  // The same rank in another step, another rank in the same step, the same step by another cause.
  EXPECT_EQ(after({failed(4, 0, 9, 1, "x"), failed(4, 8, 12, 1, "x")}).ranks, 4);
  EXPECT_EQ(after({failed(4, 0, 9, 1, "x"), failed(4, 8, 9, 2, "x")}).ranks, 4);
  EXPECT_EQ(after({failed(4, 0, 9, 1, "x"), failed(4, 8, 9, 1, "y")}).ranks, 4);
}

TEST(NextStart, TheSameStepAndCauseTwiceIsTheEnd) {
  const NextStart next = after({failed(4, 0, 9, 1, "x"), failed(4, 8, 9, 1, "x")});
  EXPECT_FALSE(next.ranks);
  EXPECT_THAT(next.why, HasSubstr("step 10 failed twice by the same cause: rank 1 on a: x"));
  // A checkpoint of the very step before.
  EXPECT_FALSE(after({failed(4, 0, 9, 1, "x"), failed(4, 9, 9, 1, "x")}).ranks);
  // What is stopped twice is not by the step.
  const Attempt stopped = ended(failed(4, 0, 9, 1, "gives no sign of life"), CauseKind::Silent);
  EXPECT_EQ(after({stopped, stopped}).ranks, 4);
}

TEST(NextStart, WhatAllRanksSayIsTheSameWhicheverSaysIt) {
  std::vector<Attempt> twice = {failed(4, 0, 9, 1, "loss is not finite"), failed(4, 8, 9, 2, "loss is not finite")};
  EXPECT_EQ(after(twice).ranks, 4);
  for (Attempt& attempt : twice) attempt.cause->kind = CauseKind::Error;
  EXPECT_FALSE(after(twice).ranks);
  twice[1].cause->what = "out of memory";
  EXPECT_EQ(after(twice).ranks, 4);
}

TEST(NextStart, AnErrorThatComesAgainIsNotMendedByFewerRanks) {
  std::vector<Attempt> twice = {failed(4, 0, 9, 0, "x"), failed(4, 8, 9, 0, "x")};
  EXPECT_EQ(after(twice, {.min_ranks = 1}).ranks, 3);
  for (Attempt& attempt : twice) attempt.cause->kind = CauseKind::Error;
  const NextStart next = after(twice, {.min_ranks = 1});
  EXPECT_FALSE(next.ranks);
  EXPECT_THAT(next.why, HasSubstr("step 10 failed twice"));
}

TEST(NextStart, TwoThatEndBeforeAStepAreTheEnd) {
  Attempt never = failed(4, 0, 0, 1, "x");
  never.from = never.to = std::nullopt;
  EXPECT_FALSE(after({never, failed(4, 8, 8, 2, "y")}).ranks);
  EXPECT_EQ(after({failed(4, 0, 9, 1, "z"), never}).ranks, 4);
}

TEST(NextStart, AttemptsOverOtherHostsAreNotCompared) {
  Attempt never = failed(4, 0, 0, 1, "x");
  never.from = never.to = std::nullopt;
  Attempt without = never;
  without.without = {"b"};
  EXPECT_FALSE(after({never, never}).ranks);
  EXPECT_EQ(after({never, without}).ranks, 4);
  EXPECT_FALSE(after({never, without, without}).ranks);
  Attempt later = failed(4, 8, 12, 1, "x");
  EXPECT_EQ(after({failed(4, 0, 9, 1, "x"), later}, {.min_ranks = 2}).ranks, 3);
  later.without = {"b"};
  EXPECT_EQ(after({failed(4, 0, 9, 1, "x"), later}, {.min_ranks = 2}).ranks, 4);
}

TEST(NextStart, WrongUseIsNotTriedAgain) {
  Attempt wrong = failed(4, 0, 0, 0, "x");
  wrong.code = 2;
  EXPECT_FALSE(after({wrong}, {.max_restarts = 5, .min_ranks = 1}).ranks);
}

TEST(NextStart, RestartsAreCounted) {
  const std::vector<Attempt> twice = {failed(4, 0, 9, 1, "x"), failed(4, 8, 12, 1, "x")};
  EXPECT_FALSE(after({twice[0]}, {.max_restarts = 0}).ranks);
  EXPECT_EQ(after(twice, {.max_restarts = 2}).ranks, 4);
  EXPECT_FALSE(after(twice, {.max_restarts = 1}).ranks);
}

TEST(NextStart, TheSameRankTwiceIsDoneWithoutWhereFewerAreAllowed) {
  const std::vector<Attempt> twice = {failed(4, 0, 9, 1, "x"), failed(4, 8, 12, 1, "x")};
  EXPECT_EQ(after(twice, {.min_ranks = 2}).ranks, 3);
  // As many as the layout has.
  EXPECT_EQ(after(twice, {.min_ranks = 2}, parallel("tp2")).ranks, 2);
  const NextStart none = after(twice, {.min_ranks = 3}, parallel("tp2"));
  EXPECT_EQ(none.ranks, 4);  // where there can be no fewer, as without min_ranks
  EXPECT_THAT(none.why, HasSubstr("rank 1 was at fault twice, and no layout tp2 has fewer ranks than 4 and 3 at least"));
  EXPECT_EQ(after({failed(1, 0, 9, 0, "x"), failed(1, 8, 12, 0, "x")}, {.min_ranks = 1}).ranks, 1);
  // Others twice, with fewer ranks once: as it was.
  EXPECT_EQ(after({failed(4, 0, 9, 1, "x"), failed(4, 8, 12, 2, "x")}, {.min_ranks = 2}).ranks, 4);
  EXPECT_EQ(after({failed(4, 0, 9, 1, "x"), failed(3, 8, 12, 1, "x")}, {.min_ranks = 2}).ranks, 3);
}

TEST(NextStart, TheSameHostTwiceOfSeveral) {
  const std::vector<Attempt> twice = {failed(4, 0, 9, 1, "x", "b"), failed(4, 8, 12, 0, "x", "b")};
  EXPECT_EQ(after(twice, {.min_ranks = 1}, {}, 2).ranks, 3);
  EXPECT_EQ(after(twice, {.min_ranks = 1}, {}, 1).ranks, 4);
  std::vector<Attempt> by_two_names = twice;
  by_two_names[1].cause->host = "b.cluster";
  EXPECT_EQ(after(by_two_names, {.min_ranks = 1}, {}, 2).ranks, 3);
}

TEST(NextStart, HostsThatAreLackingMakeFewerAtOnce) {
  Attempt lacking = failed(4, 0, 0, 0, "There are not enough slots available");
  lacking.cause->kind = CauseKind::Unavailable;
  EXPECT_EQ(after({lacking}, {.min_ranks = 1}).ranks, 3);
  EXPECT_EQ(after({lacking}).ranks, 4);  // perhaps they come back
}

TEST(NextStart, AHostThatIsNotReachedIsLeftOut) {
  const Attempt lacking = unreached({"b"});
  const NextStart spare = without_b({lacking}, 4);
  EXPECT_EQ(spare.ranks, 4);
  EXPECT_EQ(spare.without, "b");
  EXPECT_THAT(spare.why, HasSubstr("b was lost"));
  const NextStart elastic = without_b({lacking}, 2, {.min_ranks = 1});
  EXPECT_EQ(elastic.ranks, 2);
  EXPECT_EQ(elastic.without, "b");
  EXPECT_EQ(without_b({lacking}, 2, {.min_ranks = 3}).ranks, 4);
  // Where there is no room, perhaps it comes back; and one that cannot be left out is none that is.
  EXPECT_EQ(without_b({lacking}, 2).ranks, 4);
  EXPECT_FALSE(without_b({lacking}, 2).without);
  EXPECT_FALSE(without_b({unreached({"c"})}, 4).without);
  EXPECT_EQ(without_b({unreached({"c"})}, 4, {.min_ranks = 1}).ranks, 4);  // of no use: mpirun asks for c also then
}

TEST(NextStart, WhereNoHostIsReachedItIsTheNetwork) {
  EXPECT_EQ(without_b({unreached({"b", "c"})}, 4, {}, 3).without, "b");
  EXPECT_EQ(without_b({unreached({"b", "c"})}, 4, {}, 3).wait.count(), 0);
  const Attempt all = unreached({"b", "c"});
  EXPECT_FALSE(without_b({all}, 4, {}, 2).without);
  EXPECT_FALSE(without_b({all}, 4, {}, 1).without);
  EXPECT_EQ(without_b({all}, 4, {.min_ranks = 1}, 2).ranks, 4);
  // Nor one whose daemon is lost while texts are read, once.
  Attempt reading = ended(failed(4, 0, 0, 0, "lost communication", "b"), CauseKind::Unavailable);
  reading.from = reading.to = std::nullopt;
  EXPECT_FALSE(without_b({reading}, 4, {}, 2).without);
  EXPECT_EQ(without_b({reading}, 4, {.min_ranks = 1}, 2).ranks, 4);
}

TEST(NextStart, TroubleOfTheNetworkIsWaitedOut) {
  Attempt no_names = failed(4, 0, 0, 0, "Temporary failure in name resolution");
  no_names.from = no_names.to = std::nullopt;
  no_names.cause->kind = CauseKind::Passing;
  const Attempt all = unreached({"b", "c"});
  const auto next = [](std::vector<Attempt> attempts) { return without_b(std::move(attempts), 4, {.min_ranks = 1}); };
  EXPECT_EQ(next({all}).wait.count(), 5);
  EXPECT_EQ(next({all, no_names, no_names}).ranks, 4);
  EXPECT_EQ(next({all, no_names, no_names}).wait.count(), 20);
  const NextStart end = without_b({all, no_names}, 4, {.max_restarts = 1});
  EXPECT_FALSE(end.ranks);
  EXPECT_THAT(end.why, HasSubstr("started again 1 time"));
  // What comes between is waited out anew, and compared with what was before it.
  Attempt other = failed(4, 0, 0, 1, "x");
  other.from = other.to = std::nullopt;
  EXPECT_EQ(next({all, no_names, other}).wait.count(), 0);
  EXPECT_EQ(next({all, no_names, other}).ranks, 4);
  EXPECT_EQ(next({all, other, all}).wait.count(), 5);
  EXPECT_FALSE(without_b({other, all, other}, 4).ranks);
}

TEST(NextStart, AHostThatIsNeededMayBeStartingAnew) {
  const Attempt trained = failed(4, 0, 9, 1, "x"), gone = unreached({"b"});
  EXPECT_EQ(without_b({trained, gone}, 2).wait.count(), 5);
  const NextStart again = without_b({trained, gone, gone}, 2);
  EXPECT_EQ(again.ranks, 4);
  EXPECT_EQ(again.wait.count(), 10);
  EXPECT_EQ(without_b({trained, gone, gone}, 2, {.min_ranks = 3}).wait.count(), 10);
  EXPECT_FALSE(without_b({trained, gone, gone}, 2, {.max_restarts = 2}).ranks);
  // Where it can be left out it is; and one that never was there is not waited for.
  EXPECT_EQ(without_b({trained, gone}, 4).without, "b");
  EXPECT_EQ(without_b({trained, gone}, 4).wait.count(), 0);
  EXPECT_EQ(without_b({gone}, 2).wait.count(), 0);
  EXPECT_FALSE(without_b({gone, gone}, 2).ranks);
}

TEST(NextStart, TheWaitGrowsToAMinute) {
  std::vector<std::int64_t> seconds;
  for (int times = 1; times <= 7; ++times) seconds.push_back(wait_after(times).count());
  EXPECT_THAT(seconds, ::testing::ElementsAre(5, 10, 20, 40, 60, 60, 60));
}

TEST(NextStart, AHostThatIsLostInTrainingTwiceIsLeftOut) {
  const Attempt first = ended(failed(4, 0, 9, 3, "gives no sign of life", "b"), CauseKind::Silent);
  EXPECT_FALSE(without_b({first}, 4).without);
  Attempt second = ended(failed(4, 8, 12, 2, "lost communication", "b"), CauseKind::Unavailable);
  EXPECT_EQ(without_b({first, second}, 4).without, "b");
  EXPECT_EQ(without_b({second}, 4, {.min_ranks = 1}).ranks, 4);  // not fewer at once
  Attempt by_another_name = second;
  by_another_name.cause->lost = {"b.cluster"};
  EXPECT_EQ(without_b({first, by_another_name}, 4).without, "b.cluster");
  Attempt silent = first;  // on several hosts
  silent.cause->lost.clear();
  EXPECT_FALSE(without_b({silent, second}, 4).without);
  EXPECT_FALSE(without_b({failed(4, 0, 9, 3, "x", "b"), second}, 4).without);
  EXPECT_FALSE(without_b({first, failed(4, 8, 12, 2, "x", "b")}, 4).without);
  second.cause->lost = {"a"};
  EXPECT_FALSE(without_b({first, second}, 4).without);
}

TEST(FewerRanks, AreThoseThatTheLayoutCanHave) {
  struct Case {
    ParallelConfig config;
    int ranks, least, expected;
    const char* layout;  // null: the config's own
  };
  // By hand, from the table of docs/parallelism.md: a layout without dp takes multiples of tp cp pp and of ep etp pp.
  for (const Case& c : {Case{parallel(""), 8, 1, 7, nullptr}, Case{parallel("auto"), 8, 1, 7, nullptr},
                        Case{parallel("tp2ep4"), 8, 1, 4, nullptr}, Case{parallel("tp2pp2"), 8, 1, 4, nullptr},
                        Case{parallel("dp8"), 8, 1, 7, "dp7"}, Case{parallel("dp4tp2"), 8, 1, 6, "tp2"},
                        Case{parallel("dp2ep2"), 4, 1, 2, "ep2"}, Case{parallel("tp2", 1), 5, 1, 3, nullptr},
                        Case{parallel("", 0, 4), 12, 1, 8, nullptr}}) {
    const NextStart next = fewer_ranks(c.config, c.ranks, c.least);
    EXPECT_EQ(next.ranks, c.expected) << c.config.layout;
    EXPECT_EQ(next.layout.value_or("none"), c.layout == nullptr ? "none" : c.layout) << c.config.layout;
  }
  EXPECT_FALSE(fewer_ranks(parallel("tp2ep4"), 4, 1).ranks);
  ParallelConfig relaid = parallel("");  // both layouts have to fit
  relaid.teacher_layout = "pp3";
  EXPECT_EQ(fewer_ranks(relaid, 8, 1).ranks, 6);
  relaid.teacher_layout = "dp4tp2";
  const NextStart none = fewer_ranks(relaid, 8, 1);
  EXPECT_FALSE(none.ranks);
  EXPECT_THAT(none.why, HasSubstr("no parallel.teacher_layout dp4tp2 beside layout dp has fewer ranks than 8"));
  relaid.layout = "tp8";  // of which there are no fewer either
  EXPECT_THAT(fewer_ranks(relaid, 8, 1).why, HasSubstr("no layout tp8 has fewer ranks"));
}

}  // namespace
}  // namespace limbeck::launch
