// Every exchange of a step says what it is of, so that a message of a hang can.
#include <fmt/format.h>
#include <gmock/gmock.h>

#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <utility>

#include "core/exchanges_of.h"
#include "tests/support/layouts.h"
#include "tests/support/matched_steps.h"
#include "tests/support/thread_ranks.h"
#include "tests/support/wrapped_comm.h"

namespace limbeck {
namespace {

using ::testing::AllOf;
using ::testing::Contains;
using ::testing::EndsWith;
using ::testing::Not;
using ::testing::StartsWith;

/// Notes what this rank's exchanges are of, in the groups that are cut from it too.
class NotingComm final : public testing::WrappedComm {
 public:
  using Subjects = std::shared_ptr<std::set<std::string>>;

  NotingComm(World group, Subjects said) : WrappedComm(std::move(group)), said_(std::move(said)) {}

 private:
  World around(World group) const override { return std::make_shared<NotingComm>(std::move(group), said_); }
  void begins() override {
    if (size() > 1) said_->insert(core::describe(core::ExchangesOf::now()));
  }

  Subjects said_;
};

/// By all ranks: run(world, said) has each its own noted.
template <class Run>
std::set<std::string> subjects_of_all(int ranks, const Run& run) {
  std::set<std::string> all;
  std::mutex mutex;
  testing::run_ranks(ranks, [&](testing::RankWorld& world) {
    const auto said = std::make_shared<std::set<std::string>>();
    run(std::make_shared<NotingComm>(world.comm, said), *said);
    const std::scoped_lock lock(mutex);
    all.insert(said->begin(), said->end());
  });
  return all;
}

/// Of a step with three micro-batches, and the norm of its gradients.
std::set<std::string> subjects_of(const char* layout, int ranks, bool sequence_parallel = false) {
  return subjects_of_all(ranks, [&](const NotingComm::World& world, std::set<std::string>& said) {
    launch::Rank rank(world, layout, 1, sequence_parallel);
    said.clear();  // what is agreed on at the start
    testing::expect_golden(rank, "moe.h5", core::DType::F64, {.micro_batches = 3, .expert_chunks = 2});
  });
}

/// Of two steps that such a teacher teaches.
std::set<std::string> subjects_of_taught(const char* layout, const char* teacher, int ranks, bool is_sharded) {
  const testing::MatchedSteps expected = testing::matched_steps_of_one_rank();
  return subjects_of_all(ranks, [&](const NotingComm::World& world, std::set<std::string>& said) {
    testing::with_relaid_teacher(world, layout, teacher, is_sharded,
                                 [&](launch::Rank& rank, launch::RelaidTeacher& relaid) {
                                   said.clear();
                                   testing::expect_matched_steps(rank, {.relaid = &relaid}, 2, expected);
                                 });
  });
}

TEST(ExchangesOfAStep, AreSaid) {
  for (const auto& said : {subjects_of("dp2", 2), subjects_of("cp2", 2)}) {
    EXPECT_THAT(said, Not(Contains("")));
    EXPECT_THAT(said, Contains("losses of the step"));
    EXPECT_THAT(said, Contains("tokens of each expert"));
    EXPECT_THAT(said, Contains("norms of gradients"));
  }
  EXPECT_THAT(subjects_of("tp2ep2", 2, true), Not(Contains("")));
  const std::set<std::string> said = subjects_of("pp2ep2", 4);
  EXPECT_THAT(said, Not(Contains("")));
  EXPECT_THAT(said, Contains(StartsWith("gradients of layers.")));
  EXPECT_THAT(said, Contains(AllOf(StartsWith("experts of layer "), EndsWith(", dispatch"))));
  EXPECT_THAT(said, Contains(AllOf(StartsWith("experts of layer "), EndsWith(", combine"))));
  for (const int micro_batch : {0, 1, 2}) {
    EXPECT_THAT(said, Contains(fmt::format("micro-batch {}, stream to the next stage", micro_batch)));
    EXPECT_THAT(said, Contains(fmt::format("micro-batch {}, gradient to the stage before", micro_batch)));
  }
  EXPECT_THAT(subjects_of("tp2", 2), AllOf(Contains("micro-batch 1, forward"), Contains("micro-batch 1, backward")));
}

TEST(ExchangesOfAStep, AreSaidOfATeacherInAnotherLayout) {
  const std::set<std::string> said = subjects_of_taught("tp2", "pp2ep2", 4, /*is_sharded=*/true);
  EXPECT_THAT(said, Not(Contains("")));
  for (const int pass : {0, 1}) {
    EXPECT_THAT(said, Contains(fmt::format("teacher's pass {}, stream to the next stage", pass)));
    EXPECT_THAT(said, Contains(fmt::format("teacher's pass {}, hidden states", pass)));
  }
  EXPECT_THAT(said, Contains(AllOf(StartsWith("teacher's experts of layer "), EndsWith(", dispatch"))));
  EXPECT_THAT(said, Contains("micro-batch 1, forward"));
  EXPECT_THAT(subjects_of_taught("dp2", "tp2", 2, /*is_sharded=*/false), Contains("teacher's pass 0, forward"));
}

}  // namespace
}  // namespace limbeck
