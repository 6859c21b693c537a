#include "launch/plan/step_time.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <optional>
#include <utility>

namespace limbeck::launch {
namespace {

/// 1 GFLOP/s, 1 GB/s; 1 GB/s within a node of two, 0.1 GB/s between nodes.
Cluster slow_cluster() {
  Cluster cluster{.name = "slow", .nodes = 2, .devices_a_node = 2};
  cluster.float32_tflops = 1e-3;
  cluster.memory_gb_s = 1;
  cluster.inside = {.gb_s = 1, .latency_us = 1000};
  cluster.between = {.gb_s = 0.1, .latency_us = 2000};
  cluster.watts = 100;
  cluster.watts_a_node = 50;
  cluster.watts_factor = 1.5;
  cluster.device_hour = 2;
  cluster.kwh = 0.5;
  return cluster;
}

RunConfig config() {
  return parse_config(R"(
model { vocabulary: 100 width: 8 num_layers: 1 num_heads: 2 mlp_width: 16 max_positions: 16 }
data { text: "t" tokenizer: "bytes" sequence_length: 4 }
batch { sequences_per_step: 8 }
train { steps: 100 }
)",
                      "c");
}

class StepTimeTest : public ::testing::Test {
 protected:
  StepTime time(std::vector<parallel::ExchangeCount> traffic, const RunConfig& c) {
    RankPlan plan;
    plan.num_tokens = 16;
    plan.given_bytes = given_bytes;
    plan.optimizer_flops = optimizer_flops;
    plan.parameter_bytes = 2000;
    plan.gradient_bytes = 1200;
    plan.optimizer_values = 500;
    plan.optimizer_host = optimizer_host;
    plan.teacher_host = teacher_host;
    plan.traffic = std::move(traffic);
    plan.waited = waited;
    plan.pipeline = pipeline;
    plan.stage = 1;
    plan.teacher_apart = teacher_apart;
    return step_time(c, {.student = c.model->architecture, .teacher = teacher, .tokens = 100}, plan, world, cluster);
  }
  /// Two, that cost as much each.
  void stages(int micro_batches) {
    pipeline.schedule = parallel::make_schedule(parallel::ScheduleKind::OneFOneB, 2, 1, micro_batches);
    pipeline.costs = parallel::even_costs(pipeline.schedule, 1, 1, 1);
    pipeline.layers = {{0, 1}, {1, 0}};
  }
  double time_without_teacher(const RunConfig& c) {
    const std::optional<nn::ModelConfig> kept = std::exchange(teacher, std::nullopt);
    const double flops = time({}, c).flops;
    teacher = kept;
    return flops;
  }
  Cluster cluster = slow_cluster();
  Pipeline pipeline = {};
  std::vector<parallel::ExchangeCount> waited = {};
  std::int64_t given_bytes = 1'000'000;
  double optimizer_flops = 0;
  std::int64_t optimizer_host = 0, teacher_host = 0;
  std::optional<nn::ModelConfig> teacher;
  std::optional<TeacherPlan> teacher_apart;
  PlannedWorld world{.num_ranks = 4};
};

// Weights used by a token: q, k, v, o of 8 x 8, three matrices of 8 x 16, two norms and the last of 8, the head of 100
// x 8; and attention of two heads of 4 over (4 + 1) / 2 keys, two products each of 2 operations.
TEST_F(StepTimeTest, ProductsAndMemoryFollowOneAnother) {
  const double weights = 4 * 64 + 3 * 128 + 3 * 8 + 800, attention = 2.5 * 8 * 2 * 2;
  const StepTime one = time({}, config());
  EXPECT_NEAR(one.flops, 16 * 3 * (2 * weights + attention), 1e-6 * one.flops);
  EXPECT_NEAR(one.products, one.flops / 1e9, 1e-12);
  const double bytes = 3e6 + 2000 * 2 + 1200 * 2 + 500 * 4 * 8;
  EXPECT_DOUBLE_EQ(one.bytes, bytes);
  EXPECT_NEAR(one.memory, bytes / 1e9, 1e-12);
  EXPECT_DOUBLE_EQ(one.seconds(), one.products + one.memory);
  RunConfig again = config();
  again.train.recompute = true;
  EXPECT_NEAR(time({}, again).flops - one.flops, 16 * (2 * (weights - 800) + attention), 1e-6 * one.flops);
}

// A reward's head is a number a channel, and is not computed again.
TEST_F(StepTimeTest, OfRewardsTheHeadIsARow) {
  RunConfig c = config();
  c.model->architecture = nn::with_reward_head(c.model->architecture);
  const double weights = 4 * 64 + 3 * 128 + 3 * 8 + 8, attention = 2.5 * 8 * 2 * 2, once = time({}, c).flops;
  EXPECT_NEAR(once, 16 * 3 * (2 * weights + attention), 1e-6 * once);
  c.train.recompute = true;
  EXPECT_NEAR(time({}, c).flops - once, 16 * (2 * (weights - 8) + attention), 1e-6 * once);
}

// Muon's products are made in the dtype of master weights: 1 GFLOP/s, or half of it in float64, whatever passes use.
TEST_F(StepTimeTest, TheOptimizerWorksInTheMasterWeightsDtype) {
  const double passes = time({}, config()).products;
  optimizer_flops = 1e6;
  EXPECT_NEAR(time({}, config()).products - passes, 1e-3, 1e-12);
  RunConfig c = config();
  c.precision.master = core::DType::F64;
  EXPECT_NEAR(time({}, c).products - passes, 2e-3, 1e-12);
  c = config();
  c.precision.compute = core::DType::F64;
  EXPECT_NEAR(time({}, c).products - 2 * passes, 1e-3, 1e-12);
  EXPECT_NEAR(time({}, config()).flops - passes * 1e9, 1e6, 1);
}

TEST_F(StepTimeTest, ExchangesGoByTheirLink) {
  const StepTime found =
      time({{"tp", "all_reduce", {0, 1}, 10, 500'000'000}, {"dp", "all_reduce", {0, 2}, 1, 1'000'000}}, config());
  ASSERT_EQ(found.by_traffic.size(), 2U);
  EXPECT_FALSE(found.by_traffic[0].between_nodes);
  EXPECT_NEAR(found.by_traffic[0].seconds, 0.5 + 10 * 0.001, 1e-12);
  EXPECT_TRUE(found.by_traffic[1].between_nodes);
  EXPECT_NEAR(found.by_traffic[1].seconds, 0.01 + 0.002, 1e-12);
  EXPECT_NEAR(found.exposed, 0.51 + 0.012, 1e-12);
  EXPECT_NEAR(time({{"world", "all_reduce", {0, 1, 2, 3}, 1, 0}}, config()).exposed, 2 * 0.002, 1e-12);
}

// The last of four sums is left when the passes end; of longer ones what two thirds of the passes do not hide.
TEST_F(StepTimeTest, SumsOfGradientsRunBesideThePasses) {
  cluster.is_gpu = true;
  const StepTime brief = time({{"dp gradients", "all_reduce", {0, 1}, 4, 0}}, config());
  EXPECT_TRUE(brief.by_traffic[0].is_hidden);
  // The optimizer's 500 values of 4 bytes, 8 times, come behind the sums.
  const double beside = (brief.products + brief.memory - 500 * 4 * 8 / 1e9) * 2 / 3;
  EXPECT_NEAR(brief.exchanges, 0.004, 1e-12);
  ASSERT_LT(beside, 0.0025);
  EXPECT_NEAR(brief.exposed, 0.004 - beside, 1e-12);
  const StepTime one = time({{"dp gradients", "all_reduce", {0, 1}, 1, 900'000'000}}, config());
  EXPECT_NEAR(one.exposed, 0.901, 1e-12);
  // 100 of 9 ms each; passes that read and write 0.9 GB, two thirds of them backward, hide 0.6 s of the 0.9.
  given_bytes = 300'000'000;
  const double more = 2e-9 * (300'000'000 - 1'000'000);
  const StepTime many = time({{"dp gradients", "all_reduce", {0, 1}, 100, 800'000'000}}, config());
  EXPECT_NEAR(many.exposed, 0.9 - beside - more, 1e-9);
  EXPECT_NEAR(many.exposed, 0.3, 0.002);
  // Four of 225 ms: the last is left.
  given_bytes = 600'000'000;
  EXPECT_NEAR(time({{"dp gradients", "all_reduce", {0, 1}, 4, 896'000'000}}, config()).exposed, 0.225, 1e-9);
  // What Muon does is behind them too.
  given_bytes = 300'000'000;
  optimizer_flops = 1e9;
  EXPECT_NEAR(time({{"dp gradients", "all_reduce", {0, 1}, 100, 800'000'000}}, config()).exposed, many.exposed, 1e-9);
  const StepTime values = time({{"dp gradients sharers", "all_gather", {0, 1}, 1, 0}}, config());
  EXPECT_FALSE(values.by_traffic[0].is_hidden);  // behind the step
  RunConfig dealt = config();
  dealt.parallel.shard = Shard::Parameters;
  EXPECT_TRUE(time({{"dp gradients sharers", "all_gather", {0, 1}, 1, 0}}, dealt).by_traffic[0].is_hidden);
}

// Of nine gathers of 1 ms, which passes of 90 ms hide but for the last, nothing hides the three of tables.
TEST_F(StepTimeTest, TablesThatAreGatheredAreWaitedFor) {
  cluster.is_gpu = true;
  given_bytes = 30'000'000;
  RunConfig dealt = config();
  dealt.parallel.shard = Shard::Parameters;
  const parallel::ExchangeCount all{"dp gradients sharers", "all_gather", {0, 1}, 9, 0};
  EXPECT_NEAR(time({all}, dealt).exposed, 0.001, 1e-12);
  waited = {{"dp gradients sharers", "all_gather", {0, 1}, 3, 0}};
  const StepTime found = time({all}, dealt);
  EXPECT_NEAR(found.exposed, 0.003 + 0.001, 1e-12);
  EXPECT_NEAR(found.exchanges, 0.009, 1e-12);
}

// Of 16 tokens, 2 heads of 4 over 2.5 keys, two products of 2 operations each, forward and twice as much backward:
// 3.84 us, of which half hides what two ranks send each other, and three quarters what four do.
TEST_F(StepTimeTest, KeysTravelBesideTheirAttention) {
  cluster.is_gpu = true;
  cluster.inside.latency_us = cluster.between.latency_us = 0;
  const double attention = 16 * 3 * 2.5 * 8 * 2 * 2 / 1e9;
  const auto exposed = [&](std::vector<int> ranks, std::int64_t bytes, const RunConfig& c) {
    return time({{"cp", "all_to_all", std::move(ranks), 6, bytes}}, c).exposed;
  };
  EXPECT_NEAR(exposed({0, 1}, 1900, config()), 0, 1e-15);
  EXPECT_NEAR(exposed({0, 1}, 5000, config()), 5e-6 - attention / 2, 1e-12);
  EXPECT_NEAR(exposed({0, 1, 2, 3}, 5000, config()), 5e-5 - attention * 3 / 4, 1e-12);
  RunConfig c = config();
  c.train.recompute = true;  // the forward once more, and its keys
  EXPECT_NEAR(exposed({0, 1}, 5000, c), 5e-6 - attention * 4 / 3 / 2, 1e-12);
  c = config();
  c.parallel.layout = "cp2tp2";  // half of the heads
  EXPECT_NEAR(exposed({0, 1}, 5000, c), 5e-6 - attention / 4, 1e-12);
  teacher = config().model->architecture;
  EXPECT_NEAR(exposed({0, 1}, 5000, config()), 5e-6 - attention * 4 / 3 / 2, 1e-12);
  teacher.reset();
  c = config();
  c.model->architecture.window = 2;  // queries see 1, 2, 2 and 2 keys
  EXPECT_NEAR(exposed({0, 1}, 5000, c), 5e-6 - attention * (7.0 / 4) / 2.5 / 2, 1e-12);
  c = config();
  c.model->architecture.num_layers = 3;
  EXPECT_NEAR(exposed({0, 1}, 50000, c), 5e-5 - 3 * attention / 2, 1e-12);
  stages(1);
  pipeline.layers = {{0, 2}, {2, 1}};  // a stage's are its own, and on the last one a teacher's
  EXPECT_NEAR(exposed({0, 1}, 50000, c), 5e-5 - attention / 2, 1e-12);
  teacher = config().model->architecture;
  EXPECT_NEAR(exposed({0, 1}, 50000, c), 5e-5 - attention * 4 / 3 / 2, 1e-12);
  teacher.reset();
  pipeline = {};
  // What hides keys hides no sums; what all ranks choose is waited for.
  const parallel::ExchangeCount keys{"cp", "all_to_all", {0, 1}, 6, 1000},
      sums{"dp gradients", "all_reduce", {0, 1}, 100, 900'000'000}, chosen{"cp", "all_gather", {0, 1}, 1, 1000};
  EXPECT_NEAR(time({keys, sums}, config()).exposed - time({sums}, config()).exposed, 1e-6 * 2 / 3, 1e-12);
  EXPECT_NEAR(time({chosen}, config()).exposed, 1e-6, 1e-12);
  cluster.is_gpu = false;  // the cores that copy are those that compute
  EXPECT_NEAR(exposed({0, 1}, 1900, config()), 1.9e-6, 1e-12);
}

// It is in memory to be measured by alone.
TEST_F(StepTimeTest, NoTeacherRunsWhereSmoothedLabelsStandInItsPlace) {
  RunConfig c = config();
  const StepTime without = time({}, c);
  teacher = c.model->architecture;
  teacher_host = 8000;
  EXPECT_GT(time({}, c).flops, without.flops);
  c.objective.control = Control::SmoothedLabels;
  EXPECT_EQ(time({}, c).flops, without.flops);
  EXPECT_EQ(time({}, c).seconds(), without.seconds());
}

// 4000 bytes cross a bus of 10 MB/s, each way at the same time, while the same kernels are at the GPU's memory.
TEST_F(StepTimeTest, TheOptimizerStepsOverTheBus) {
  cluster.bus = {.gb_s = 0.01, .latency_us = 0};
  const StepTime here = time({}, config());
  EXPECT_EQ(here.bus, 0);
  optimizer_host = 4000;
  const StepTime there = time({}, config());
  EXPECT_NEAR(there.bus, 4e-4 - 500 * 4 * 8 / 1e9, 1e-12);
  EXPECT_NEAR(there.seconds() - here.seconds(), there.bus, 1e-12);
  cluster.bus.gb_s = 1;
  EXPECT_EQ(time({}, config()).bus, 0);
}

// Of four layers the first is copied before any runs, each other one beside the one before it; behind the last the head
// runs, beside which there is none to copy. A layer of a token is four matrices of 8 x 8, three of 8 x 16, two norms of
// 8, its part of the last one, and attention as above.
TEST_F(StepTimeTest, ATeachersLayersAreCopiedBesideItsOwn) {
  cluster.is_gpu = true;
  cluster.bus = {.gb_s = 0.01, .latency_us = 0};
  teacher = config().model->architecture;
  teacher->num_layers = 4;
  RunConfig c = config();
  c.batch.micro_batches = 2;
  const StepTime here = time({}, c);
  teacher_host = 8000;
  const double copied = 2 * 8000 / 1e7, read = 2 * 8000 / 1e9,
               runs = 8 * (2 * (4 * 64 + 3 * 128 + 2 * 8 + 8.0 / 4) + 2.5 * 8 * 2 * 2) / 1e9 + 2000 / 1e9;
  const auto waits = [&](double copy) {  // of two passes, each of whose layers takes so long to copy
    double now = copy;
    for (int layer = 1; layer < 4; ++layer) now += std::max(runs, copy);
    return 2 * (now + runs - 4 * runs);
  };
  ASSERT_LT(runs, 2000 / 1e7);
  const StepTime there = time({}, c);
  EXPECT_NEAR(there.bus, waits(2000 / 1e7), 1e-12);
  EXPECT_NEAR(there.memory - here.memory, read, 1e-12);
  cluster.bus.latency_us = 1;  // of each layer
  EXPECT_NEAR(time({}, c).bus, waits(2000 / 1e7 + 1e-6), 1e-12);
  cluster.bus = {.gb_s = 1, .latency_us = 0};  // as fast as the memory: the passes take longer
  EXPECT_NEAR(time({}, c).bus, waits(2000 / 1e9), 1e-12);
  EXPECT_NEAR(waits(2000 / 1e9), 2 * 2000 / 1e9, 1e-12);
  // What hides copies hides no sums.
  const parallel::ExchangeCount sums{"dp gradients", "all_reduce", {0, 1}, 100, 900'000'000};
  const double exposed = time({sums}, c).exposed;
  teacher_host = 0;
  EXPECT_NEAR(exposed - time({sums}, c).exposed, (copied / 100 * 3 / 4 - read) * 2 / 3, 1e-12);
}

// A long teacher's attention hides keys and copies both, more than all passes take: for sums nothing is left then.
TEST_F(StepTimeTest, WhatHidesOthersHidesNothingElse) {
  cluster.is_gpu = true;
  cluster.bus = {.gb_s = 0.01, .latency_us = 0};
  teacher = config().model->architecture;
  teacher->num_layers = 4;
  teacher_host = 2'000'000;
  RunConfig c = config();
  c.data.sequence_length = 100'000;
  const parallel::ExchangeCount keys{"cp", "all_to_all", {0, 1, 2, 3}, 1, 1'000'000'000},
      sums{"dp gradients", "all_reduce", {0, 1}, 1000, 1'000'000'000};
  EXPECT_NEAR(time({keys, sums}, c).exposed - time({keys}, c).exposed, 2, 1e-9);
}

// Half of four layers, of 16 tokens: four matrices of 8 x 8, three of 8 x 16 and two norms each, the last norm, and
// attention as above. Of four passes through two stages each waits for one. Its head is beside the student's.
TEST_F(StepTimeTest, ATeacherOverTheSameRanksRunsInFront) {
  RunConfig c = config();
  const StepTime without = time({}, c);
  teacher = c.model->architecture;
  teacher->num_layers = 4;
  c.parallel.teacher_layout = "pp2dp2";
  teacher_apart = TeacherPlan{.layout = "pp2dp2", .passes = 4, .num_tokens = 16, .num_stages = 2, .share = 0.5};
  const double products = 0.5 * 16 * (2 * (4 * (4 * 64 + 3 * 128 + 2 * 8) + 8) + 4 * 2.5 * 8 * 2 * 2) / 1e9;
  const StepTime apart = time({}, c);
  EXPECT_NEAR(apart.flops - without.flops, 16 * 2 * 800, 1e-6);
  EXPECT_NEAR(apart.teacher, products * 5 / 4, 1e-15);
  EXPECT_NEAR(apart.seconds() - without.seconds(), products * 5 / 4 + 16 * 2 * 800 / 1e9, 1e-12);
  // Its weights are read in each pass, its tensors three times; tp divides its products, of whose tokens all read.
  teacher_apart->bytes = 1000;
  teacher_apart->given_bytes = 5000;
  EXPECT_NEAR(time({}, c).teacher, (products + 4 * 1000 / 1e9 + 3 * 5000 / 1e9) * 5 / 4, 1e-15);
  teacher_apart = TeacherPlan{.layout = "tp2", .passes = 4, .num_tokens = 32, .share = 0.5};
  EXPECT_NEAR(time({}, c).teacher, products, 1e-15);
  // What it sends is waited for, on its links.
  teacher_apart->traffic = {{"tp", "all_reduce", {0, 1}, 1, 1'000'000},
                            {"teacher", "all_to_all", {0, 2}, 1, 1'000'000}};
  const StepTime sends = time({}, c);
  EXPECT_NEAR(sends.of_teacher.exposed, 0.001 + 0.001 + 0.002 + 0.01, 1e-12);
  EXPECT_NEAR(sends.teacher, products + sends.of_teacher.exposed, 1e-12);
  EXPECT_TRUE(sends.of_teacher.by_traffic.at(1).between_nodes);
  EXPECT_EQ(sends.exposed, 0);
}

// It is at the next step's text while the student is at this one's, and of ranks that are paid for too.
TEST_F(StepTimeTest, ATeacherOnRanksOfItsOwnIsWaitedForWhereItTakesLonger) {
  RunConfig c = config();
  teacher = c.model->architecture;
  c.parallel.teacher_ranks = 2;
  teacher_apart = TeacherPlan{.layout = "dp2", .num_ranks = 2, .passes = 1, .num_tokens = 16};
  const parallel::ExchangeCount asks{"world", "send", {0, 1, 2, 3, 4, 5}, 2, 1'000'000'000};
  const StepTime fast = time({asks}, c);
  EXPECT_EQ(fast.teacher, 0);
  EXPECT_EQ(fast.exposed, 0);
  EXPECT_GT(fast.of_teacher.seconds, 0);
  teacher_apart->bytes = 1'000'000'000;
  const StepTime slow = time({asks}, c);
  EXPECT_GT(slow.of_teacher.seconds, 1);
  EXPECT_DOUBLE_EQ(slow.seconds(), slow.of_teacher.seconds);
  EXPECT_NEAR(slow.seconds() - slow.teacher, fast.seconds(), 1e-12);
  // Answers leave beside its passes, each once that before it has: 2 ms and 10 ns a byte between nodes.
  teacher_apart->traffic = {{"world", "send", {0, 1, 2, 3, 4, 5}, 2, 1'000'000}};
  EXPECT_EQ(time({asks}, c).of_teacher.seconds, slow.of_teacher.seconds);
  EXPECT_EQ(time({asks}, c).of_teacher.exposed, 0);
  teacher_apart->traffic[0].bytes = 1'000'000'000;
  const StepTime long_answers = time({asks}, c);
  EXPECT_NEAR(long_answers.of_teacher.seconds, 2 * 0.002 + 10, 1e-9);
  EXPECT_NEAR(long_answers.of_teacher.exposed, 2 * 0.002 + 10 - slow.of_teacher.seconds, 1e-9);
  EXPECT_TRUE(long_answers.of_teacher.by_traffic[0].is_hidden);
  StepTime one;
  one.products = 36;
  EXPECT_DOUBLE_EQ(run_figures(c, one, world, slow_cluster()).kwh, 1.5 * (6 * 100 + 3 * 50) / 1000);
}

// Within a machine the cores that compute add up what they sum; between machines a wire carries it.
TEST_F(StepTimeTest, CoresAddUpInTheirOwnTime) {
  const parallel::ExchangeCount inside{"dp gradients", "all_reduce", {0, 1}, 4, 0},
      between{"dp gradients", "all_reduce", {0, 2}, 4, 0};
  EXPECT_NEAR(time({inside}, config()).exposed, 0.004, 1e-12);
  EXPECT_FALSE(time({inside}, config()).by_traffic[0].is_hidden);
  given_bytes = 100'000'000;  // passes of 0.3 s
  EXPECT_NEAR(time({between}, config()).exposed, 0.002, 1e-12);
  EXPECT_TRUE(time({between}, config()).by_traffic[0].is_hidden);
  EXPECT_NEAR(time({inside}, config()).exposed, 0.004, 1e-12);
  cluster.is_gpu = true;
  EXPECT_NEAR(time({inside}, config()).exposed, 0.001, 1e-12);
}

// Weights, gradients and the optimizer's state are at the memory's rate, tensors three times at that of kernels.
TEST_F(StepTimeTest, KernelsHaveARateOfTheirOwn) {
  cluster.kernel_gb_s = 0.25;
  EXPECT_NEAR(time({}, config()).memory, 3e6 / 0.25e9 + (2000 * 2 + 1200 * 2 + 500 * 4 * 8) / 1e9, 1e-12);
}

// Of two stages alike each has half of the products. In 1F1B of m micro-batches a stage waits for one of them: 1 / m of
// what its passes take.
TEST_F(StepTimeTest, StagesWaitAsTheirScheduleSays) {
  const double all = time({}, config()).flops;
  stages(4);
  const StepTime of_four = time({}, config());
  EXPECT_NEAR(of_four.flops, all / 2, 1e-6 * all);
  const double passes = of_four.products + of_four.memory - 500 * 4 * 8 / 1e9;
  EXPECT_NEAR(of_four.waits, passes / 4, 1e-9);
  EXPECT_DOUBLE_EQ(of_four.seconds(), of_four.products + of_four.memory + of_four.waits);
  // Of one micro-batch a stage waits for all of the other, and for the stream and its gradient on their way: 1 ms and
  // 0.5 s each.
  stages(1);
  const StepTime of_one = time({{"pp", "send", {0, 1}, 2, 1'000'000'000}}, config());
  EXPECT_NEAR(of_one.waits, passes + 2 * (0.001 + 0.5), 1e-9);
  EXPECT_EQ(of_one.exposed, 0);
}

TEST_F(StepTimeTest, ARunCostsItsHoursAndItsEnergy) {
  StepTime one;
  one.products = 36;
  const RunFigures run = run_figures(config(), one, world, slow_cluster());
  EXPECT_DOUBLE_EQ(run.tokens, 100 * 8 * 4);
  EXPECT_DOUBLE_EQ(run.seconds, 3600);
  EXPECT_DOUBLE_EQ(run.kwh, 1.5 * (4 * 100 + 2 * 50) / 1000);
  EXPECT_DOUBLE_EQ(run.cost, 4 * 2 + run.kwh * 0.5);
}

// Two of four experts have 0.9 of the tokens: the ranks of these do 1.8 times the mean.
TEST_F(StepTimeTest, TheRankWithMostToDoIsWaitedFor) {
  RunConfig c = config();
  c.model->architecture.moe.num_experts = 4;
  c.model->architecture.moe.experts_per_token = 2;
  c.model->architecture.moe.expert_width = 16;
  c.parallel.layout = "dp4ep2";
  const double even = time({}, c).flops;
  world.expert_shares[4] = {0.05, 0.05, 0.4, 0.5};
  const double experts = 16.0 * 3 * 2 * 2 * 3 * 8 * 16;
  EXPECT_NEAR(time({}, c).flops - even, 0.8 * experts, 1e-6 * even);
  c.routing = {.capacity_factor = 1.5, .expert_choice = true};  // all as much, whatever tokens would choose
  EXPECT_NEAR(time({}, c).flops - even, 0.5 * experts, 1e-6 * even);
  c.routing = {};
  c.parallel.layout = "dp4";
  EXPECT_DOUBLE_EQ(time({}, c).flops, even);
  // A teacher of eight experts chooses by shares of its own: even ones, where none are known.
  c.parallel.layout = "dp4ep2";
  c.precision.sharded_teacher = true;
  teacher = c.model->architecture;
  const double with_like = time({}, c).flops - time_without_teacher(c);
  teacher->moe.num_experts = 8;
  const double router = 16.0 * 2 * 4 * 8;  // four rows more
  EXPECT_NEAR(with_like - (time({}, c).flops - time_without_teacher(c)), 0.8 * experts / 3 - router, 1e-6 * even);
}

// Three of five experts are on the last of two ranks: 1.2 times the mean. Of two over four ranks two have one each.
TEST_F(StepTimeTest, TheRankWithMostExpertsIsWaitedFor) {
  RunConfig c = config();
  c.model->architecture.moe.num_experts = 5;
  c.model->architecture.moe.experts_per_token = 2;
  c.model->architecture.moe.expert_width = 16;
  const auto flops = [&](const char* layout) {
    c.parallel.layout = layout;
    return time({}, c).flops;
  };
  const double experts = 16.0 * 3 * 2 * 2 * 3 * 8 * 16;
  EXPECT_NEAR(flops("dp4ep2") - flops("dp4"), 0.2 * experts, 1e-6 * experts);
  c.routing = {.capacity_factor = 1.5, .expert_choice = true};
  EXPECT_NEAR(flops("dp4ep2") - flops("dp4"), 1.5 * 0.2 * experts, 1e-6 * experts);
  c.routing = {};
  c.model->architecture.moe.num_experts = 2;
  EXPECT_NEAR(flops("ep4") - flops("dp4"), experts, 1e-6 * experts);
}

}  // namespace
}  // namespace limbeck::launch
