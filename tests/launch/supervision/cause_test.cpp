#include "launch/supervision/cause.h"

#include <gmock/gmock.h>

namespace limbeck::launch {
namespace {

using ::testing::ElementsAre;

Cause heard(const std::vector<const char*>& lines, int code = 1) {
  Witness witness;
  for (const char* line : lines) witness.hear(line);
  return witness.cause(code);
}

TEST(Cause, TheRankThatFailsIsNamed) {
  const Cause second = heard({"12:00:00 step 3", "limbeck: error: rank 1: out of memory"});
  EXPECT_EQ(second.kind, CauseKind::Error);
  EXPECT_EQ(second.rank, 1);
  EXPECT_EQ(second.what, "out of memory");
  const Cause first = heard({"[1,0]<stderr>:limbeck: error: a.txt: cannot be read"});
  EXPECT_EQ(first.rank, 0);
  EXPECT_EQ(first.what, "a.txt: cannot be read");
}

TEST(Cause, WhoHasNotComeIsWhomTheOthersWaitFor) {
  const Cause cause = heard(
      {"limbeck: error: rank 1: all_reduce(sum) of 9 float64 in group dp at step 42: no end after 600 s "
       "(parallel.deadline_s); rank 3 has not come and does not answer: last heard of at step 41, in barrier in group "
       "world"});
  EXPECT_EQ(cause.rank, 3);
  EXPECT_TRUE(cause.what.starts_with("all_reduce(sum) of 9"));
}

TEST(Cause, SignalsAreThoseThatMpirunSaw) {
  // Open MPI 4.1.4's words, and 5.0.7's.
  const Cause four =
      heard({"limbeck: error: the world has ended",
             "mpirun noticed that process rank 1 with PID 4711 on node n17 exited on signal 9 (Killed)."});
  EXPECT_EQ(four.kind, CauseKind::Signal);
  EXPECT_EQ(four.rank, 1);
  EXPECT_EQ(four.host, "n17");
  EXPECT_EQ(four.what, "ended by signal 9");
  const Cause five = heard(
      {"prterun noticed that process rank 12 with PID 4711 on node n17 exited on signal 11 (Segmentation fault)."});
  EXPECT_EQ(five.rank, 12);
  EXPECT_EQ(five.what, "ended by signal 11");
}

TEST(Cause, HostsAndSlotsThatAreLacking) {
  EXPECT_EQ(heard({"There are not enough slots available in the system to satisfy the 3"}).kind,
            CauseKind::Unavailable);
  EXPECT_EQ(heard({"ssh: connect to host n3 port 22: No route to host"}).kind, CauseKind::Unavailable);
  EXPECT_EQ(heard({"ssh: connect to host n3 port 22: No route to host"}).host, "n3");
  EXPECT_EQ(heard({"ssh: Could not resolve hostname n4.cluster: Name or service not known\r"}).host, "n4.cluster");
  // Open MPI 4.1.4's words.
  const Cause lost = heard({"ORTE has lost communication with a remote daemon.", "",
                            "  HNP daemon   : [[2047,0],0] on node n1", "  Remote daemon: [[2047,0],1] on node n2"});
  EXPECT_EQ(lost.kind, CauseKind::Unavailable);
  EXPECT_EQ(lost.host, "n2");
  EXPECT_THAT(lost.lost, ElementsAre("n2"));
  EXPECT_FALSE(lost.is_unreached);
  for (const char* line : {"Your job has requested more processes than the ppr for",
                           "There are not enough nodes in your allocation to satisfy your request to launch",
                           "A request was made to bind to that would result in binding more"})
    EXPECT_EQ(heard({line}).kind, CauseKind::Unavailable) << line;
  const Cause unknown = heard({"something else"}, 7);
  EXPECT_EQ(unknown.kind, CauseKind::Unknown);
  EXPECT_EQ(unknown.what, "mpirun ended with 7");
  EXPECT_FALSE(unknown.rank.has_value());
}

TEST(Cause, AllHostsThatSshDoesNotReachAreLost) {
  const Cause cause =
      heard({"ssh: connect to host n3 port 22: No route to host",
             "ssh: Could not resolve hostname n4.cluster: Name or service not known",
             "ssh: connect to host n3.cluster port 22: No route to host",
             "ORTE was unable to reliably start one or more daemons.", "  Remote daemon: [[2047,0],1] on node n5"});
  EXPECT_TRUE(cause.is_unreached);
  EXPECT_EQ(cause.host, "n3");
  EXPECT_THAT(cause.lost, ElementsAre("n3", "n4.cluster"));
}

TEST(Cause, ANameThatIsNotResolvedForTheMomentIsNoLostHost) {
  const Cause cause = heard({"ssh: Could not resolve hostname n4: Temporary failure in name resolution",
                             "ORTE was unable to reliably start one or more daemons."});
  EXPECT_EQ(cause.kind, CauseKind::Passing);
  EXPECT_THAT(cause.what, ::testing::HasSubstr("Temporary failure"));
  EXPECT_TRUE(cause.lost.empty());
  // Nor does it hide one that is.
  const Cause both = heard({"ssh: connect to host n3 port 22: No route to host",
                            "ssh: Could not resolve hostname n4: Temporary failure in name resolution"});
  EXPECT_EQ(both.kind, CauseKind::Unavailable);
  EXPECT_THAT(both.lost, ElementsAre("n3"));
}

TEST(Cause, WhatWasHeardSoFar) {
  Witness witness;
  witness.hear("12:00:00 step 3");
  EXPECT_FALSE(witness.heard());
  witness.hear("limbeck: error: rank 1: out of memory");
  ASSERT_TRUE(witness.heard());
  EXPECT_EQ(witness.heard()->rank, 1);
}

TEST(Cause, ItsPlaceIsThatOfItsRanksLastSign) {
  Cause cause{.kind = CauseKind::Signal, .what = "ended by signal 9", .rank = 1};
  place(cause, {{.rank = 0, .host = "a", .step = 5, .operation = "barrier in group world"},
                {.rank = 1, .host = "b", .step = 4, .operation = "all_reduce(sum) of 9 float64 in group dp"}});
  EXPECT_EQ(to_text(cause),
            "rank 1 on b, at step 4, last operation all_reduce(sum) of 9 float64 in group dp: ended by signal 9");
}

}  // namespace
}  // namespace limbeck::launch
