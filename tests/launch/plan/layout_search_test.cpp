#include "launch/plan/layout_search.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <optional>

#include "launch/run/run_config.h"
#include "tests/support/temporary_folder.h"

namespace limbeck::launch {
namespace {

class LayoutSearch : public ::testing::Test {
 protected:
  LayoutSearch() {
    cluster.devices_a_node = 2;
    cluster.float32_tflops = 1;
    cluster.memory_gb_s = 100;
    cluster.inside = {.gb_s = 10, .latency_us = 5};
    models.student = config.model->architecture;
    models.tokens = 300;
  }
  std::vector<std::string> layouts(std::vector<PlannedLayout> found) const {
    std::vector<std::string> names;
    for (const PlannedLayout& l : found) names.push_back(l.layout);
    return names;
  }
  std::vector<PlannedLayout> search(std::size_t most = 10) const {
    return best_layouts(config, models, {.num_ranks = 2}, cluster, most);
  }

  RunConfig config = parse_config(R"(
model {
  vocabulary: 300 width: 64 num_layers: 2 num_heads: 4 num_kv_heads: 2 max_positions: 64
  moe { num_experts: 4 experts_per_token: 2 expert_width: 64 }
}
data { text: "t" tokenizer: "bytes" sequence_length: 32 }
batch { sequences_per_step: 4 }
)",
                                  "c");
  PlannedModels models;
  Cluster cluster{.name = "two", .memory_gib = 1};
};

// Sequences of 32 tokens are not cut.
TEST_F(LayoutSearch, TriesEveryLayoutThatFits) {
  const std::vector<PlannedLayout> found = search();
  EXPECT_THAT(layouts(found), ::testing::UnorderedElementsAre("dp2", "ep2", "tp2", "tp2ep2", "pp2"));
  EXPECT_TRUE(std::ranges::is_sorted(found, {}, [](const PlannedLayout& l) { return l.time.seconds(); }));
  for (const PlannedLayout& l : found) EXPECT_EQ(l.shard, Shard::Nothing) << l.layout;
  EXPECT_EQ(search(1).size(), 1U);
  // dp2, which is the config's own, leaves a rank without a sequence.
  config.batch.sequences_per_step = 1;
  EXPECT_THAT(layouts(search()), ::testing::UnorderedElementsAre("dp2", "tp2", "tp2ep2", "pp2"));
  config.parallel.layout = "ep2tp2";
  EXPECT_THAT(layouts(search()), ::testing::UnorderedElementsAre("tp2", "tp2ep2", "tp2ep2", "pp2"));
  config.parallel.sequence_parallel = true;
  EXPECT_THAT(layouts(search()), ::testing::UnorderedElementsAre("tp2", "tp2ep2", "pp2"));
}

// Whose layout is as the config says it.
TEST_F(LayoutSearch, SearchesBesideATeacherInALayoutOfItsOwn) {
  config.teacher.emplace();
  models.teacher = models.student;
  config.parallel.teacher_layout = "tp2";
  std::vector<PlannedLayout> found = search();
  EXPECT_THAT(layouts(found), ::testing::UnorderedElementsAre("dp2", "ep2", "tp2", "tp2ep2", "pp2"));
  for (const PlannedLayout& l : found) {
    EXPECT_EQ(l.plan.teacher_apart->layout, "tp2") << l.layout;
    EXPECT_GT(l.time.teacher, 0) << l.layout;
  }
  config.parallel.teacher_ranks = 4;
  found = search();
  EXPECT_THAT(layouts(found), ::testing::UnorderedElementsAre("dp2", "ep2", "tp2", "tp2ep2", "pp2"));
  for (const PlannedLayout& l : found) EXPECT_EQ(l.plan.teacher_apart->num_ranks, 4) << l.layout;
}

// Of a slow teacher in two stages, which takes longer than the student, a step of m micro-batches has (m + 1) / m times
// what a stage computes.
TEST_F(LayoutSearch, StagesWorkAsSuitsTheirTeacher) {
  config.teacher.emplace();
  models.teacher = models.student;
  models.teacher->num_layers = 16;
  config.parallel.layout = "pp2";
  config.parallel.teacher_ranks = 2;
  config.parallel.teacher_layout = "pp2";
  cluster.float32_tflops = 1e-4;
  const PlannedWorld world{.num_ranks = 2};
  TeacherPlans teachers(models, world);
  const WorkEstimate fastest = fastest_work(config, models, world, cluster, teachers);
  EXPECT_EQ(fastest.work.micro_batches, 4);
  const RunConfig worked = with_work(config, fastest.work);
  const StepTime time = step_time(worked, models, plan_rank(worked, models, world), world, cluster);
  EXPECT_GT(time.teacher, 0);
  EXPECT_DOUBLE_EQ(fastest.seconds, time.of_teacher.seconds);
}

// Beside a teacher on ranks of its own the student's have another name: the sums of all of them are as few, of figures
// there is one more, of the time that it was waited for.
TEST_F(LayoutSearch, SumsOfAllStagesComeOnceAStep) {
  config.teacher.emplace();
  models.teacher = models.student;
  models.teacher->num_layers = 1;
  config.parallel.layout = "pp2";
  config.batch.micro_batches = 4;
  cluster.float32_tflops = 1e-6;  // so that no teacher is waited for
  cluster.devices_a_node = 4;
  cluster.inside.latency_us = 10'000;
  const PlannedWorld world{.num_ranks = 2};
  TeacherPlans teachers(models, world);
  const auto seconds = [&] { return fastest_work(config, models, world, cluster, teachers).seconds; };
  config.parallel.teacher_layout = "dp2";
  const double over_the_same = seconds();
  config.parallel.teacher_layout.clear();
  config.parallel.teacher_ranks = 1;
  EXPECT_NEAR(seconds() - over_the_same, 0.01, 0.005);
}

TEST_F(LayoutSearch, ExpertsNeedNotDivide) {
  models.student.moe.num_experts = 3;
  EXPECT_THAT(layouts(search()), ::testing::UnorderedElementsAre("dp2", "ep2", "tp2", "tp2ep2", "pp2"));
  config.parallel.deal_experts_every_steps = 1;
  EXPECT_THAT(layouts(search()), ::testing::UnorderedElementsAre("dp2", "ep2", "tp2", "tp2ep2", "pp2"));
}

TEST_F(LayoutSearch, SetsAllThatDividesAStep) {
  config.parallel.shard = Shard::Optimizer;
  config.parallel.shard_ranks = 2;
  EXPECT_THAT(search(1).front().sets(),
              ::testing::IsSupersetOf({"parallel.shard=NOTHING", "parallel.shard_ranks=0", "train.recompute=false"}));
}

TEST_F(LayoutSearch, GivesNothingThatDoesNotFit) {
  cluster.memory_gib = 0.001;
  EXPECT_TRUE(search().empty());
}

// Of two experts a rank has one, whose moments in 8 bits two ranks would share, and it could not be dealt anew; of
// three one rank has one.
TEST_F(LayoutSearch, LeavesOutWhatTheRunRefuses) {
  const PlannedWorld world{.num_ranks = 4, .ranks_a_node = 2};
  cluster.nodes = 2;
  cluster.between = {.gb_s = 1, .latency_us = 20};
  models.student.moe.num_experts = 2;
  config.optimizer.eight_bit_state = true;
  config.parallel.layout = "auto";
  config.parallel.shard = Shard::Optimizer;
  const auto found = [&] { return best_layouts(config, models, world, cluster, 100); };
  EXPECT_THAT(layouts(found()), ::testing::IsSupersetOf({"dp4", "ep2", "tp2ep2"}));
  config.parallel.deal_experts_every_steps = 10;
  EXPECT_THAT(layouts(found()), ::testing::AllOf(::testing::Contains("dp4"), ::testing::Contains("tp2"),
                                                 ::testing::Each(::testing::Not(::testing::AnyOf("ep2", "tp2ep2")))));
  for (const PlannedLayout& layout : found())
    EXPECT_NO_THROW(plan_rank(under(config, layout), models, world)) << layout.text();
  cluster.memory_gib = 1e-6;
  const std::optional<PlannedLayout> smallest = smallest_layout(config, models, world, cluster);
  ASSERT_TRUE(smallest);
  EXPECT_NO_THROW(plan_rank(under(config, *smallest), models, world)) << smallest->text();
  cluster.memory_gib = 1;
  config.parallel.shard = Shard::Nothing;
  std::vector<PlannedLayout> all = found();
  const auto of_experts = std::ranges::find(all, "ep2", &PlannedLayout::layout);
  ASSERT_NE(of_experts, all.end());
  EXPECT_EQ(of_experts->shard, Shard::Nothing);

  config.parallel.layout = "ep2";
  config.parallel.shard = Shard::Gradients;
  for (const std::int64_t num_experts : {3, 2}) {
    models.student.moe.num_experts = num_experts;
    EXPECT_THAT([&] { plan_rank(config, models, world); },
                ::testing::ThrowsMessage<core::UsageError>(::testing::HasSubstr(
                    "parallel.deal_experts_every_steps is given with optimizer.eight_bit_state, which 2 ranks share "
                    "(edp) of as few as 1 expert, expected no more ranks than experts")));
  }
}

// An expert has 3 matrices of 512 x 2048 in each of two layers, and takes 16 bytes a value with AdamW's state: 101 MB,
// more than a quarter of 0.3 GiB, of which its half is less.
TEST_F(LayoutSearch, LargeExpertsAreCutBesideEp) {
  const PlannedWorld world{.num_ranks = 4, .ranks_a_node = 2};
  cluster.nodes = 2;
  cluster.between = {.gb_s = 1, .latency_us = 20};
  cluster.memory_gib = 0.3;
  config.parallel.layout = "auto";
  config.parallel.bucket_mib = 0.25;
  nn::ModelConfig& student = models.student;
  student.width = 512;
  student.moe.num_experts = 2;
  student.moe.expert_width = 2048;
  const auto found = [&] { return best_layouts(config, models, world, cluster, 100); };
  const std::vector<PlannedLayout> all = found();
  const auto cut = std::ranges::find(all, "ep2etp2", &PlannedLayout::layout);
  ASSERT_NE(cut, all.end());
  ASSERT_EQ(cut->shard, Shard::Nothing);
  const double experts = 2.0 * 2 * 3 * 512 * 2048, total = static_cast<double>(nn::count_parameters(student).total);
  const MemoryParts& memory = cut->plan.memory;
  const double state = static_cast<double>(memory.parameters + memory.gradients + memory.optimizer);
  EXPECT_NEAR(state, 16 * (total - experts + experts / 4), 0.03 * state);
  EXPECT_NO_THROW(parse_config(to_textproto(under(config, *cut)), "taken"));

  const auto none_cuts = [&] {
    return ::testing::Matches(::testing::Each(::testing::Not(::testing::HasSubstr("etp"))))(layouts(found()));
  };
  config.parallel.expert_replicas = 1;  // which the run refuses with etp
  EXPECT_TRUE(none_cuts());
  config.parallel.expert_replicas = 0;
  cluster.memory_gib = 1;
  EXPECT_TRUE(none_cuts());
  cluster.memory_gib = 0.05;
  student.moe.expert_width = 512;  // narrow products
  EXPECT_TRUE(none_cuts());
}

// Ranks 2 and 3 of six are on two nodes of three: neither tp nor etp is 2. An expert's 151 MB are cut by 3 though half
// of them is less than a quarter of 0.4 GiB.
TEST_F(LayoutSearch, WhatIsCutWithinNodesSpansNone) {
  const PlannedWorld world{.num_ranks = 6, .ranks_a_node = 3};
  cluster.nodes = 2;
  cluster.devices_a_node = 3;
  cluster.between = {.gb_s = 1, .latency_us = 20};
  cluster.memory_gib = 0.4;
  config.parallel.layout = "auto";
  config.batch.sequences_per_step = 6;
  nn::ModelConfig& student = models.student;
  student.width = 512;
  student.moe.num_experts = student.moe.experts_per_token = 1;
  student.moe.expert_width = 3072;
  const std::vector<std::string> found = layouts(best_layouts(config, models, world, cluster, 100));
  EXPECT_THAT(found, ::testing::Contains("etp3"));
  EXPECT_THAT(found, ::testing::Each(::testing::Not(::testing::HasSubstr("tp2"))));
}

class LargeLayers : public LayoutSearch {
 protected:
  /// Two layers of 67 M values each, which tp does not cut: there is a device a node.
  LargeLayers() {
    nn::ModelConfig& student = models.student;
    student.moe = {};
    student.width = 2048;
    student.mlp_width = 8192;
    student.num_heads = student.num_kv_heads = 16;
    student.head_width = 128;
    cluster.devices_a_node = 1;
  }
  /// Bytes that dp2 takes by each sharding, with or without recomputation, whichever is less.
  std::map<Shard, std::int64_t> needs_of_data() const {
    std::map<Shard, std::int64_t> least;
    RunConfig given = config;
    for (const Shard shard : {Shard::Nothing, Shard::Optimizer, Shard::Gradients, Shard::Parameters})
      for (const bool recompute : {false, true}) {
        given.parallel.shard = shard;
        given.train.recompute = recompute;
        const std::int64_t held = plan_rank(given, models, {.num_ranks = 2}).memory.held;
        least[shard] = least.contains(shard) ? std::min(least[shard], held) : held;
      }
    return least;
  }
  std::optional<PlannedLayout> find(const std::string& layout) const {
    std::vector<PlannedLayout> all = search();
    const auto found = std::ranges::find(all, layout, &PlannedLayout::layout);
    return found == all.end() ? std::nullopt : std::optional(std::move(*found));
  }
};

constexpr double gib = 1 << 30;

// What PARAMETERS gathers for both layers at once is more than GRADIENTS keeps.
TEST_F(LargeLayers, OneShardingFits) {
  std::map<Shard, std::int64_t> least = needs_of_data();
  std::int64_t others = INT64_MAX;
  for (const auto& [shard, held] : least)
    if (shard != Shard::Gradients) others = std::min(others, held);
  ASSERT_LT(least[Shard::Gradients], others);
  cluster.memory_gib = static_cast<double>(least[Shard::Gradients] + others) / 2 / gib;
  const std::optional<PlannedLayout> found = find("dp2");
  ASSERT_TRUE(found);
  EXPECT_EQ(found->shard, Shard::Gradients);
}

// A stage keeps a layer, 16 bytes a value with AdamW's state; dp2 has all values beside a share of the rest, or gathers
// them.
TEST_F(LargeLayers, StagesFitWhereNothingElseDoes) {
  cluster.memory_gib = 64;
  const std::optional<PlannedLayout> staged = find("pp2");
  ASSERT_TRUE(staged);
  const MemoryParts& memory = staged->plan.memory;
  const double values = 4 * 2048 * 2048 + 3 * 2048 * 8192,
               state = static_cast<double>(memory.parameters + memory.gradients + memory.optimizer);
  EXPECT_NEAR(state, 16 * values, 0.03 * state);
  std::int64_t others = INT64_MAX;
  for (const auto& [shard, held] : needs_of_data()) others = std::min(others, held);
  ASSERT_LT(staged->plan.memory.held, others);
  cluster.memory_gib = static_cast<double>(staged->plan.memory.held + others) / 2 / gib;
  EXPECT_THAT(layouts(search()), ::testing::ElementsAre("pp2"));
  cluster.memory_gib = 0.5;
  EXPECT_TRUE(search().empty());
  EXPECT_EQ(smallest_layout(config, models, {.num_ranks = 2}, cluster)->layout, "pp2");
}

// Two stages, with all else dealt over the others, and gatherings of layers take more than a layer a rank.
TEST_F(LargeLayers, MoreStagesAreTriedUntilTheyFit) {
  models.student.num_layers = 4;
  const PlannedWorld world{.num_ranks = 4};
  config.batch.micro_batches = 4;
  config.parallel.layout = "pp4";
  const std::int64_t need = plan_rank(config, models, world).memory.held;
  config.parallel.layout.clear();
  config.batch.micro_batches = 1;
  cluster.memory_gib = 1.1 * static_cast<double>(need) / gib;
  EXPECT_THAT(layouts(best_layouts(config, models, world, cluster, 10)), ::testing::ElementsAre("pp4"));
}

// Products are divided over ranks either way, and exchanges hidden; stages wait for each other.
TEST_F(LargeLayers, StagesAreNotFasterOnOneNode) {
  cluster.devices_a_node = 2;
  cluster.memory_gib = 64;
  cluster.inside = {.gb_s = 1000, .latency_us = 1};
  cluster.float32_tflops = 0.01;  // so that the optimizer, of which a stage does half, is nothing
  models.student.num_kv_heads = models.student.num_heads = 1;
  models.student.head_width = 2048;
  const std::optional<PlannedLayout> data = find("dp2"), staged = find("pp2");
  ASSERT_TRUE(data && staged);
  EXPECT_LT(data->time.seconds(), staged->time.seconds());
  EXPECT_EQ(search(1).front().layout, "dp2");
  EXPECT_GT(staged->time.waits, 0);
  // A stage of two, with two micro-batches and more, waits for one of them at most.
  EXPECT_LT(staged->time.seconds(), 1.5 * data->time.seconds());
}

// Of gradients dp2 sends 4 bytes a value, a stage of streams and their gradients 4 bytes a channel of a token each.
TEST_F(LargeLayers, StagesSendLeastBetweenSlowNodes) {
  cluster.nodes = 2;
  cluster.memory_gib = 64;
  cluster.between = {.gb_s = 0.1, .latency_us = 20};
  const PlannedWorld world{.num_ranks = 2, .ranks_a_node = 1};
  const std::vector<PlannedLayout> found = best_layouts(config, models, world, cluster, 10);
  ASSERT_THAT(layouts(found), ::testing::ElementsAre("pp2", "dp2"));
  const double values = static_cast<double>(nn::count_parameters(models.student).total);
  EXPECT_GT(found[1].time.seconds(), 4 * values / 0.1e9);
  EXPECT_LT(found[0].time.seconds(), 0.5 * found[1].time.seconds());
}

// One sequence a pass for each rank, of as many passes as divide the step, unless the balance loss counts all of it.
TEST_F(LayoutSearch, StagesHaveMicroBatchesThatDivideTheStep) {
  config.batch.sequences_per_step = 12;
  const auto micro_batches = [&] {
    config.parallel.layout = "pp2";
    std::vector<std::int64_t> all;
    for (const StageWork& work : tried_work(config, models, 2)) all.push_back(work.micro_batches);
    all.erase(std::unique(all.begin(), all.end()), all.end());
    return all;
  };
  EXPECT_THAT(micro_batches(), ::testing::ElementsAre(1, 2, 4, 6));
  config.batch.micro_batches = 3;
  EXPECT_THAT(micro_batches(), ::testing::ElementsAre(3, 4, 6));
  EXPECT_EQ(smallest_work(config, 2).micro_batches, 6);
  config.batch.micro_batches = 1;
  config.moe_loss.balance_scope = nn::BalanceScope::GlobalBatch;
  EXPECT_THAT(micro_batches(), ::testing::ElementsAre(1));
}

// By the settings that it names: its memory and its time are those that a plan of them has.
TEST_F(LayoutSearch, RowsAreWhatPlansOfTheirSettingsSay) {
  config.parallel.stages = {1, 1};  // of another layout than those that are tried
  const testing::TemporaryFolder folder;
  testing::write_file(folder / "c.textproto", to_textproto(config));
  const PlannedWorld world{.num_ranks = 4, .ranks_a_node = 2};
  cluster.nodes = 2;
  cluster.between = {.gb_s = 1, .latency_us = 20};
  const std::vector<PlannedLayout> found = best_layouts(config, models, world, cluster, 100);
  EXPECT_EQ(std::ranges::count_if(found, [](const PlannedLayout& l) { return l.work.has_value(); }), 2);
  for (const PlannedLayout& row : found) {
    SCOPED_TRACE(row.text());
    EXPECT_EQ(row.work.has_value(), row.layout.starts_with("pp"));
    const RunConfig given = load_given_config({folder / "c.textproto"}, row.sets());
    const RankPlan plan = plan_rank(given, models, world);
    EXPECT_EQ(plan.memory.held, row.plan.memory.held);
    EXPECT_DOUBLE_EQ(step_time(given, models, plan, world, cluster).seconds(), row.time.seconds());
  }
}

}  // namespace
}  // namespace limbeck::launch
