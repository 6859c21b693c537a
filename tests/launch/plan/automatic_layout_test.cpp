#include "launch/plan/automatic_layout.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <string>

#include "launch/run/available_memory.h"
#include "launch/run/devices.h"
#include "tests/support/thread_ranks.h"

namespace limbeck::launch {
namespace {

using ::testing::HasSubstr;

class AutomaticLayout : public ::testing::Test {
 protected:
  AutomaticLayout() {
    models.student = config.model->architecture;
    models.tokens = 300;
  }
  PlannedLayout chosen() const { return automatic_layout(config, models, {.num_ranks = 2}, cluster); }
  std::string refusal() const {
    try {
      chosen();
    } catch (const core::Error& error) {
      return error.what();
    }
    return "";
  }
  void cut_data_alone() {
    models.student.num_layers = 1;
    models.student.moe = {};
    models.student.mlp_width = 3 * 2048;
    config.model->architecture = models.student;
  }
  /// Bytes that a rank takes under given settings.
  std::int64_t need(const std::string& layout, Shard shard, bool recompute) const {
    RunConfig given = config;
    given.parallel.layout = layout;
    given.parallel.shard = shard;
    given.train.recompute = recompute;
    return plan_rank(given, models, {.num_ranks = 2}).memory.held;
  }

  RunConfig config = parse_config(R"(
model {
  vocabulary: 300 width: 512 num_layers: 4 num_heads: 1 num_kv_heads: 1 max_positions: 64
  moe { num_experts: 4 experts_per_token: 2 expert_width: 2048 }
}
data { text: "t" tokenizer: "bytes" sequence_length: 32 }
batch { sequences_per_step: 4 }
parallel { layout: "auto" bucket_mib: 0.25 }
)",
                                  "c");
  PlannedModels models;
  Cluster cluster = [] {
    Cluster two{.name = "two", .memory_gib = 1};
    two.devices_a_node = 2;
    two.float32_tflops = 1;
    two.memory_gb_s = 100;
    two.inside = {.gb_s = 10, .latency_us = 5};
    return two;
  }();
};

TEST_F(AutomaticLayout, IsTheFirstThatIsPlanned) {
  const std::vector<PlannedLayout> planned = best_layouts(config, models, {.num_ranks = 2}, cluster, 10);
  ASSERT_GT(planned.size(), 1U);
  EXPECT_EQ(chosen().sets(), planned.front().sets());
  const RunConfig taken = under(config, chosen());
  EXPECT_EQ(taken.parallel.layout, planned.front().layout);
  EXPECT_FALSE(is_automatic(taken));
}

// One head, one layer and no experts, so only data is cut: the memory says how far state is dealt.
TEST_F(AutomaticLayout, GoesByMemory) {
  cut_data_alone();
  cluster.memory_gib = 1.5;
  EXPECT_EQ(chosen().text(), "dp2");
  const auto gib = [](std::int64_t bytes) { return static_cast<double>(bytes) / (1LL << 30); };
  const std::int64_t whole = need("dp2", Shard::Nothing, false), dealt = need("dp2", Shard::Optimizer, false);
  ASSERT_LT(dealt, whole);
  cluster.memory_gib = gib((whole + dealt) / 2);
  EXPECT_EQ(chosen().text(), "dp2, shard OPTIMIZER");
  config.parallel.shard = Shard::Gradients;  // what the config asks for stays
  cluster.memory_gib = 1;
  EXPECT_EQ(chosen().text(), "dp2, shard GRADIENTS");
}

// New values, 4 bytes each, go from each of four ranks to three between nodes, from each of two to one within a node.
TEST_F(AutomaticLayout, SharesWithinNodesWhereThatIsFaster) {
  cut_data_alone();
  config.parallel.shard = Shard::Optimizer;
  cluster.nodes = 2;
  cluster.inside = {.gb_s = 10, .latency_us = 0};
  cluster.between = {.gb_s = 0.1, .latency_us = 0};
  const PlannedWorld world{.num_ranks = 4, .ranks_a_node = 2};
  const auto found = [&] { return automatic_layout(config, models, world, cluster); };
  const PlannedLayout within = found();
  EXPECT_EQ(within.text(), "dp4, shard OPTIMIZER within 2 ranks");
  config.parallel.shard_ranks = 4;  // what the config asks for stays
  const PlannedLayout among_all = found();
  EXPECT_EQ(among_all.text(), "dp4, shard OPTIMIZER within 4 ranks");
  const double bytes = 4 * static_cast<double>(nn::count_parameters(models.student).total),
               gained = bytes * 3 / 4 / 0.1e9 - bytes / 2 / 10e9;
  EXPECT_NEAR(among_all.time.exposed - within.time.exposed, gained, 0.01 * gained);
  EXPECT_GT(within.plan.memory.optimizer, among_all.plan.memory.optimizer);
  for (const PlannedLayout& taken : {within, among_all})
    EXPECT_NO_THROW(parse_config(to_textproto(under(config, taken)), "taken")) << taken.text();
  config.parallel.shard_ranks = 3;
  EXPECT_THROW(found(), core::UsageError);
  // Where the state of both nodes together fits alone.
  config.parallel.shard_ranks = 0;
  cluster.memory_gib = static_cast<double>(within.plan.memory.held + among_all.plan.memory.held) / 2 / (1LL << 30);
  EXPECT_EQ(found().shard_ranks, 0);
}

TEST_F(AutomaticLayout, NamesTheSmallestNeed) {
  cut_data_alone();
  cluster.memory_gib = 0.001;
  std::int64_t least = need("dp2", Shard::Nothing, false);
  for (const bool recompute : {false, true})
    for (const Shard shard : {Shard::Nothing, Shard::Optimizer, Shard::Gradients, Shard::Parameters})
      least = std::min(least, need("dp2", shard, recompute));
  EXPECT_THAT(refusal(), HasSubstr(fmt::format("no layout of 2 ranks fits into the 0.001 GiB that a rank may take: the "
                                               "smallest need is {:.3f} GiB, of dp2",
                                               static_cast<double>(least) / (1LL << 30))));
  config.batch.sequences_per_step = 1;
  EXPECT_THAT(refusal(), HasSubstr("no layout of 2 ranks gives each a sequence"));
}

// Of tp2 a rank has half of the teacher when it starts, of dp2 all of it beside a large student, and the teacher's one rank
// has all of it in steps.
TEST_F(AutomaticLayout, NamesATeachersRankThatDoesNotFit) {
  models.student.num_heads = models.student.num_kv_heads = 2;
  cut_data_alone();
  config.teacher.emplace();
  config.parallel.teacher_ranks = 1;
  models.teacher = models.student;
  models.teacher->num_layers = 40;
  models.student.mlp_width *= 8;
  config.model->architecture = models.student;
  RunConfig given = config;
  given.parallel.layout = "tp2";
  given.parallel.sequence_parallel = true;
  const PlannedWorld world{.num_ranks = 2};
  const auto gib = [](std::int64_t bytes) { return static_cast<double>(bytes) / (1LL << 30); };
  const std::int64_t of_student = plan_student(given, models, world).memory.held,
                     of_teacher = plan_teacher_ranks(given, models, world).memory.held;
  ASSERT_LT(of_student, of_teacher);
  cluster.memory_gib = gib((of_student + of_teacher) / 2);
  EXPECT_THAT(refusal(),
              HasSubstr(fmt::format("that a rank may take: the smallest need is {:.3f} GiB, of a rank of the "
                                    "teacher's beside tp2",
                                    gib(of_teacher))));
  cluster.memory_gib = 1.01 * gib(of_teacher);
  EXPECT_EQ(chosen().layout, "tp2");
}

// Of the machine's nine tenths each rank has its part; other work may take some between the two calls.
TEST_F(AutomaticLayout, RanksShareTheMachinesMemory) {
  config.train.device = DeviceKind::Cpu;
  const auto one = static_cast<double>(memory_of_rank_here(config, 1)),
             four = static_cast<double>(memory_of_rank_here(config, 4)),
             available = static_cast<double>(available_memory());
  EXPECT_NEAR(one, 0.9 * available, 0.2 * available);
  EXPECT_NEAR(four, 0.9 * available / 4, 0.05 * available);
}

// Three ranks a machine: two of the first share a GPU, of the second two have none.
TEST_F(AutomaticLayout, RanksShareWhatTheyKnowByTheSameName) {
  const std::array<std::string, 6> buses = {"0000:3b:00.0", "0000:3b:00.0", "0000:af:00.0", "0000:3b:00.0", "", ""};
  std::array<int, 6> sharers{};
  testing::run_ranks(
      6,
      [&](testing::RankWorld& world) {
        const auto r = static_cast<std::size_t>(world.rank);
        sharers.at(r) = sharers_here(*world.comm, buses.at(r));
      },
      std::chrono::seconds(60), /*ranks_a_node=*/3);
  EXPECT_EQ(sharers, (std::array{2, 2, 1, 1, 2, 2}));
  EXPECT_EQ(bus_of_rank(DeviceKind::Cpu), "");
}

TEST_F(AutomaticLayout, ClustersAreOfTheMachinesRanks) {
  config.train.device = DeviceKind::Cpu;
  config.train.threads = 3;
  const Cluster sixteen = usual_cluster(config, 4, 14, std::int64_t{3} << 29);
  EXPECT_EQ(sixteen.nodes, 4);
  EXPECT_EQ(sixteen.devices_a_node, 4);
  EXPECT_EQ(sixteen.memory_gib, 1.5);
  EXPECT_EQ(&sixteen.link_of(std::array{0, 3}), &sixteen.inside);
  EXPECT_EQ(&sixteen.link_of(std::array{3, 4}), &sixteen.between);
  EXPECT_NEAR(sixteen.float32_tflops, 0.18, 1e-12);
}

}  // namespace
}  // namespace limbeck::launch
