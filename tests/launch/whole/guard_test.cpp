// Runs that refuse steps: by a text in which one document is unlike the others.
#include <fmt/format.h>
#include <gmock/gmock.h>

#include <array>
#include <map>

#include "core/random.h"
#include "data/checkpoints/checkpoint.h"
#include "launch/run/run_config.h"
#include "launch/run/run_state.h"
#include "launch/run/run_steps.h"
#include "launch/run/session.h"
#include "tests/support/kept_state.h"
#include "tests/support/run_limbeck.h"
#include "tests/support/state_values.h"
#include "tests/support/thread_ranks.h"
#include "tests/support/written_state.h"

namespace limbeck {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::Outcome;
using testing::RunFolder;

/// 4 sequences a step; the odd document has 300 bytes.
RunFolder odd_folder(const std::string& name) {
  RunFolder folder(name);
  const core::RandomStream random(1, 0, "odd");
  std::string odd;
  for (std::uint64_t i = 0; i < 300; ++i) odd += static_cast<char>('A' + random.below(i, 26));
  folder.write("text/9.txt", odd);
  folder.write("guarded.textproto", R"(
train { steps: 60 checkpoint_every_steps: 1 keep_checkpoints: 60 }
schedule { kind: CONSTANT }
guard { window: 8 deviations: 6 }
)");
  return folder;
}

std::vector<std::int64_t> refused_steps(const std::vector<json>& metrics) {
  std::vector<std::int64_t> steps;
  for (const json& line : metrics)
    if (line.contains("refused")) steps.push_back(line["step"].get<std::int64_t>());
  return steps;
}

std::map<std::string, std::vector<float>> tensors_of(const RunFolder& folder, const std::string& run,
                                                     std::int64_t step) {
  return testing::state_values<float>(data::Checkpoint(folder.path() / run / fmt::format("checkpoints/step_{}", step)));
}

TEST(Guard, ASkippedStepChangesNothingAndARunThatGoesBackReadsOn) {
  const RunFolder folder = odd_folder("guard");
  const std::string said = folder.succeed("train tiny.textproto guarded.textproto --out skip");
  const std::vector<json> skip = folder.metrics("skip");
  ASSERT_EQ(skip.size(), 60U);
  const std::vector<std::int64_t> refused = refused_steps(skip);
  ASSERT_FALSE(refused.empty()) << said;
  const std::int64_t first = refused.front();
  EXPECT_THAT(said, HasSubstr(fmt::format("step {} is refused, its ", first)));
  EXPECT_THAT(said, HasSubstr("its update is left out"));
  EXPECT_TRUE(tensors_of(folder, "skip", first) == tensors_of(folder, "skip", first - 1));
  EXPECT_FALSE(tensors_of(folder, "skip", first + 1) == tensors_of(folder, "skip", first));
  EXPECT_EQ(skip.back()["refused_steps"], refused.size());
  EXPECT_EQ(skip.back()["rolled_back"], 0);

  folder.succeed("report skip");
  folder.succeed("compare skip skip");

  // The step that is done in its place reads what the next one reads where it is skipped, by the same weights.
  folder.succeed("train tiny.textproto guarded.textproto --out back --set guard.action=ROLL_BACK");
  const std::vector<json> back = folder.metrics("back");
  ASSERT_EQ(back.size(), 60U);
  const auto at = static_cast<std::size_t>(first);
  for (std::size_t i = 0; i + 1 < at; ++i) EXPECT_EQ(back[i]["loss"], skip[i]["loss"]) << i;
  EXPECT_EQ(back[at - 1]["step"], first);
  EXPECT_EQ(back[at - 1]["loss"], skip[at]["loss"]);
  EXPECT_EQ(back[at - 1]["rolled_back"], 1);
  EXPECT_FALSE(back[at - 1].contains("refused"));
}

TEST(Guard, GoingBackRestoresWeightsAndMoments) {
  const RunFolder folder = odd_folder("guard_back");
  const fs::path at = folder.path();
  for (const char* set : {"optimizer.kind=ADAMW", "optimizer.kind=MUON", "optimizer.eight_bit_state=true"}) {
    const launch::RunConfig config =
        launch::load_given_config({at / "tiny.textproto", at / "guarded.textproto"},
                                  {"data.text=" + (at / "text").string(), "train.device=CPU", set});
    testing::run_ranks(1, [&](testing::RankWorld& world) {
      const launch::Log log = launch::make_log(1);
      launch::Rank rank(world.comm, "dp1", 1, false);
      launch::Session session(rank, config, log);
      launch::RunSteps steps(session, log);
      session.start_student();
      steps.find_matches(session.start.layers);
      steps.begin();
      const auto values = [&] {
        launch::StateCopy copy(rank.host_memory());
        return testing::state_values<float>(testing::KeptState(copy.take(steps.state())));
      };
      for (int i = 0; i < 3; ++i) steps.step();
      launch::StateCopy copy(rank.host_memory());
      const testing::KeptState kept(copy.take(steps.state()));
      const launch::StepsPosition position = steps.position();
      const auto expected = testing::state_values<float>(kept);
      for (int i = 0; i < 2; ++i) steps.step();
      EXPECT_FALSE(values() == expected) << set;
      steps.go_back(kept, position, "kept");
      EXPECT_TRUE(values() == expected) << set;
      EXPECT_EQ(steps.position().step, 3);
      EXPECT_EQ(steps.position().passed_over, 2);
      EXPECT_EQ(steps.step().step, 4);
    });
  }
}

constexpr std::array in_float64{"precision.compute=FLOAT64", "precision.master=FLOAT64", "precision.gradient=FLOAT64",
                                "precision.reduction=FLOAT64", "precision.frozen_storage=FLOAT64"};

/// Three steps of two ranks, two more, back to the three, and another two; with `moves` experts lie elsewhere in each,
/// in two orders by turns.
testing::Seen seen_with_a_way_back(const RunFolder& folder, bool moves) {
  const fs::path at = folder.path();
  std::vector<std::string> sets(in_float64.begin(), in_float64.end());
  for (const std::string& set : {"data.text=" + (at / "text").string(), std::string("train.device=CPU"),
                                 std::string("parallel.layout=ep2")})
    sets.push_back(set);
  if (moves) sets.emplace_back("parallel.deal_experts_every_steps=100");  // by hand alone
  const launch::RunConfig config =
      launch::load_given_config({at / "tiny.textproto", at / "guarded.textproto"}, sets);
  testing::Seen seen;
  testing::WrittenState kept, back, last;
  testing::run_ranks(2, [&](testing::RankWorld& world) {
    const launch::Log log = launch::make_log(1);
    launch::Rank rank(world.comm, config.parallel.layout, 1, false);
    launch::Session session(rank, config, log);
    launch::RunSteps steps(session, log);
    session.start_student();
    steps.find_matches(session.start.layers);
    steps.begin();
    ASSERT_EQ(steps.placement().has_value(), moves);
    const launch::ExpertOrder one = {3, 0, 2, 1}, other = {2, 1, 3, 0};
    const auto take = [&](int count) {
      for (int i = 0; i < count; ++i) {
        const launch::ExpertOrder& first = i % 2 == 0 ? one : other;
        if (moves) steps.placement()->go_on_with({first, i % 2 == 0 ? other : one}, {}, "here");
        const launch::StepReport report = steps.step();
        if (world.rank != 0) continue;
        seen.losses.push_back(report.result.loss());
        seen.norms.push_back(report.gradient_norm);
      }
    };
    take(3);
    steps.in_model_order([&] { kept.add(steps.state()); });
    const launch::StepsPosition position = steps.position();
    take(2);
    world.comm->barrier();  // all that is kept is there
    steps.go_back(testing::KeptState(kept.whole()), position, "kept");
    if (moves) {
      EXPECT_TRUE(steps.placement()->orders().empty()) << "experts are where the checkpoint has them";
    }
    back.add(steps.state());
    take(2);
    steps.in_model_order([&] { last.add(steps.state()); });
  });
  EXPECT_TRUE(testing::values_of(back.whole()) == testing::values_of(kept.whole()));
  seen.state = testing::values_of(last.whole());
  return seen;
}

TEST(Guard, GoingBackFindsExpertsThatLieElsewhere) {
  const RunFolder folder = odd_folder("guard_moved");
  testing::expect_near(seen_with_a_way_back(folder, true), seen_with_a_way_back(folder, false), 1e-9);
}

TEST(Guard, AResumedRunRefusesWhatAnUninterruptedOneDoes) {
  const RunFolder folder = odd_folder("guard_resumed");
  for (const char* action : {"SKIP", "ROLL_BACK"}) {
    const std::string job = fmt::format(
        "train tiny.textproto guarded.textproto --set guard.action={} --set train.checkpoint_every_steps=5 --quiet ",
        action);
    const std::string whole = fmt::format("whole_{}", action), cut = fmt::format("cut_{}", action);
    folder.succeed(job + "--out " + whole);
    const std::vector<json> expected = folder.metrics(whole);
    ASSERT_GT(expected.back()["refused_steps"], 0);
    folder.succeed(job + "--steps 30 --out " + cut);
    folder.succeed(job + "--resume --out " + cut);
    EXPECT_TRUE(folder.metrics(cut) == expected) << action;
    EXPECT_TRUE(tensors_of(folder, cut, 60) == tensors_of(folder, whole, 60));
  }
}

TEST(Guard, RanksRefuseTogetherAndSharesAndDealtExpertsGoBack) {
  const RunFolder folder = odd_folder("guard_ranks");
  std::string job =
      "train tiny.textproto guarded.textproto --quiet --set guard.action=ROLL_BACK --set "
      "train.checkpoint_every_steps=5 ";
  for (const char* set : in_float64) job += fmt::format("--set {} ", set);
  folder.succeed(job + "--out one");
  folder.succeed(job +
                     "--out ranks --set parallel.layout=ep2 --set parallel.shard=PARAMETERS --set "
                     "parallel.deal_experts_every_steps=1",
                 4);  // two of them share two experts
  const std::vector<json> one = folder.metrics("one"), ranks = folder.metrics("ranks");
  ASSERT_EQ(one.size(), ranks.size());
  EXPECT_GT(one.back()["rolled_back"], 0);
  std::int64_t moved = 0;
  for (std::size_t i = 0; i < one.size(); ++i) {
    EXPECT_EQ(ranks[i]["rolled_back"], one[i]["rolled_back"]) << i;
    EXPECT_NEAR(ranks[i]["loss"].get<double>(), one[i]["loss"].get<double>(), 1e-8) << i;
    moved += ranks[i].value("moved_experts", std::int64_t{0});
  }
  EXPECT_GT(moved, 0);
}

TEST(Guard, ARunThatGetsNoFurtherEnds) {
  const RunFolder folder = odd_folder("guard_ends");
  const Outcome run = folder.limbeck("train tiny.textproto guarded.textproto --out run --set guard.most=0");
  EXPECT_EQ(run.code, 1);
  EXPECT_THAT(run.lines_with("limbeck: error"),
              ElementsAre(AllOf(HasSubstr("is refused, its "), HasSubstr("guard.most"))));
}

TEST(Guard, WhatIsNotFiniteIsSkippedToo) {
  const RunFolder folder("guard_nan");
  // A rate by which weights leave float32's range in a step: all that follow are refused.
  const Outcome run = folder.limbeck(
      "train tiny.textproto --out run --set guard.most=3 --set optimizer.rate=1e30 --set optimizer.clip_norm=0");
  EXPECT_EQ(run.code, 1);
  EXPECT_THAT(run.lines_with("limbeck: error"), ElementsAre(HasSubstr("is not finite: 4 steps were refused")));
}

TEST(DebugStep, NamesTheFirstOperationThatIsNotFinite) {
  const RunFolder folder("debug_step");
  const std::string job = "train tiny.textproto --set optimizer.rate=1e30 --set optimizer.clip_norm=0 --out ";
  const Outcome plain = folder.limbeck(job + "plain");
  EXPECT_EQ(plain.code, 1);
  EXPECT_THAT(plain.lines_with("limbeck: error"),
              ElementsAre(AllOf(HasSubstr("is not finite at step "), HasSubstr("--debug-step"))));
  for (const int ranks : {1, 2}) {
    const Outcome run = folder.limbeck(fmt::format("{}debug{} --debug-step", job, ranks), ranks);
    EXPECT_EQ(run.code, 1);
    EXPECT_THAT(run.lines_with("limbeck: error"),
                ElementsAre(AllOf(HasSubstr("first not finite: "), HasSubstr(" pass of micro-batch 0"),
                                  HasSubstr(" of norm.weight"), HasSubstr("on rank 0"))))
        << run.output;
  }
}

TEST(DebugStep, NamesItWhereAGuardRefuses) {
  const RunFolder folder("debug_guard");
  const Outcome run = folder.limbeck(
      "train tiny.textproto --out run --debug-step --set guard.most=1 --set optimizer.rate=1e30 --set "
      "optimizer.clip_norm=0");
  EXPECT_EQ(run.code, 1);
  EXPECT_THAT(run.lines_with("limbeck: error"),
              ElementsAre(AllOf(HasSubstr("is not finite; first not finite: "), HasSubstr("guard.most"))));
}

TEST(DebugStep, ChangesNothing) {
  const RunFolder folder("debug_same");
  folder.succeed("train tiny.textproto --steps 4 --out plain");
  folder.succeed("train tiny.textproto --steps 4 --out debug --debug-step --set train.recompute=true");
  EXPECT_TRUE(tensors_of(folder, "debug", 4) == tensors_of(folder, "plain", 4));
}

}  // namespace
}  // namespace limbeck
