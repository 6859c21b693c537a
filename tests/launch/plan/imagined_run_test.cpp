#include "launch/plan/imagined_run.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "core/nn/transformer.h"
#include "core/share.h"
#include "tests/support/temporary_folder.h"
#include "tests/support/thread_ranks.h"

namespace limbeck::launch {
namespace {

RunConfig config_with(const std::string& more) {
  return parse_config(R"(
model {
  vocabulary: 300 width: 64 num_layers: 2 num_heads: 4 num_kv_heads: 2 max_positions: 64
  moe { num_experts: 4 experts_per_token: 2 expert_width: 64 }
}
data { text: "t" tokenizer: "bytes" sequence_length: 32 }
batch { sequences_per_step: 4 }
)" + more,
                      "c");
}
PlannedModels models_of(const RunConfig& config) { return {.student = config.model->architecture, .tokens = 300}; }

// A teacher of eight experts beside a student of four: each has shares of its own.
TEST(ImaginedRun, ExpertsOfEachModelHaveTheirShares) {
  RunConfig config = config_with("parallel { layout: \"ep2\" }");
  config.teacher.emplace();
  config.precision.sharded_teacher = true;
  PlannedModels models = models_of(config);
  models.teacher = models.student;
  models.teacher->moe.num_experts = 8;
  const auto given = [&](ExpertShares shares) {
    return plan_rank(config, models, {.num_ranks = 2, .expert_shares = std::move(shares)}).given_bytes;
  };
  const std::int64_t even = given({}), of_student = given({{4, zipf_shares(4, 1)}}),
                     of_teacher = given({{8, zipf_shares(8, 1)}});
  // The last rank's experts are those with most to do.
  EXPECT_GT(of_student, even);
  EXPECT_GT(of_teacher, even);
  EXPECT_EQ(given({{4, zipf_shares(4, 1)}, {8, zipf_shares(8, 1)}}) - even, of_student - even + of_teacher - even);
  EXPECT_EQ(given({{4, zipf_shares(4, 0)}, {8, zipf_shares(8, 0)}}), even);
}

// Of a GPU; a CPU has it all in the same memory.
TEST(ImaginedRun, WhatIsOffloadedIsTheHosts) {
  const auto memory = [](const std::string& more, bool has_queue) {
    RunConfig config = config_with("optimizer { kind: MUON " + more + "} precision { bfloat16_weights: true }");
    config.teacher.emplace();
    config.precision.offload_teacher = !more.empty();
    PlannedModels models = models_of(config);
    models.teacher = models.student;
    models.teacher->num_layers = 8;
    const RankPlan plan = plan_rank(config, models, {.device = {.has_queue = has_queue}});
    EXPECT_EQ(plan.optimizer_host + plan.teacher_host, plan.memory.host);
    return plan.memory;
  };
  const MemoryParts here = memory("", true), there = memory("offload: true ", true);
  const auto moved = static_cast<double>(here.optimizer - there.optimizer + here.teacher - there.teacher);
  EXPECT_EQ(here.host, 0);
  EXPECT_GT(here.optimizer, 10 * there.optimizer);
  EXPECT_GT(here.teacher, 3 * there.teacher);
  EXPECT_NEAR(static_cast<double>(there.host), moved, 0.02 * moved);
  EXPECT_LT(there.peak(), here.peak() - there.host / 2);
  const MemoryParts of_cpu = memory("offload: true ", false);
  EXPECT_EQ(of_cpu.host, 0);
  EXPECT_EQ(of_cpu.optimizer, memory("", false).optimizer);
}

// A matrix of the teacher's width by the student's for each of its layers, with 4 bytes of value and 8 of moments each;
// of two stages each has its layer's.
TEST(ImaginedRun, ProjectorsAreTrainedBesideTheStudent) {
  const auto plan = [](const char* layout, bool projects) {
    RunConfig config = config_with("");
    config.parallel.layout = layout;
    config.teacher.emplace();
    config.objective.hidden_states.weight = 1;
    config.objective.hidden_states.layers = {0, 1};
    config.objective.hidden_states.projector = projects;
    PlannedModels models = models_of(config);
    models.teacher = models.student;
    if (projects) models.teacher->width = 96;
    const int stages = config.parallel.layout.empty() ? 1 : 2;
    return plan_stage(config, models, {.num_ranks = stages}, stages - 1);
  };
  constexpr std::int64_t values = std::int64_t{96} * 64;
  for (const auto& [layout, here] : {std::pair("", 2), {"pp2", 1}}) {
    const RankPlan with = plan(layout, true), without = plan(layout, false);
    EXPECT_EQ(with.trainable - without.trainable, 2 * values) << layout;
    EXPECT_EQ(with.optimizer_values - without.optimizer_values, here * values) << layout;
    EXPECT_EQ(with.parameter_bytes - without.parameter_bytes, here * 4 * values) << layout;
    EXPECT_EQ(with.memory.parameters - without.memory.parameters, here * 4 * values) << layout;
    EXPECT_NEAR(static_cast<double>(with.memory.optimizer - without.memory.optimizer),
                static_cast<double>(here * 8 * values), here * 64.0)  // and a number of each
        << layout;
  }
}

TEST(ImaginedRun, AnUntrainedTeacherIsBesideTheOther) {
  const auto memory_of_teachers = [](Control control) {
    RunConfig config = config_with("");
    config.teacher.emplace();
    config.objective.control = control;
    PlannedModels models = models_of(config);
    models.teacher = models.student;
    const RankPlan plan = plan_rank(config, models, {});
    EXPECT_EQ(plan.teacher_bytes, plan.memory.teacher / (control == Control::Untrained ? 2 : 1));  // that steps read
    return plan.memory.teacher;
  };
  const std::int64_t one = memory_of_teachers(Control::None);
  EXPECT_GT(one, 0);
  EXPECT_EQ(memory_of_teachers(Control::Untrained), 2 * one);
  EXPECT_EQ(memory_of_teachers(Control::ShuffledPositions), one);
  EXPECT_EQ(memory_of_teachers(Control::SmoothedLabels), one);
}

const parallel::ExchangeCount* exchange_of(const std::vector<parallel::ExchangeCount>& traffic, const char* group,
                                           const char* operation) {
  const auto at = std::ranges::find_if(
      traffic, [&](const parallel::ExchangeCount& t) { return t.group == group && t.operation == operation; });
  return at == traffic.end() ? nullptr : &*at;
}

// Of 128 tokens of width 64 in four passes through two stages the second of two ranks gives the first its half, and of
// the layer that it has as much again; of the teacher it keeps one layer of two, and the head for the student's losses.
TEST(ImaginedRun, ATeacherOverTheSameRanksGivesWhatIsElsewhere) {
  RunConfig config = config_with("parallel { layout: \"dp2\" teacher_layout: \"pp2\" }");
  config.teacher.emplace();
  PlannedModels models = models_of(config);
  models.teacher = models.student;
  const auto plan_of = [&](std::vector<std::int64_t> layers) {
    config.objective.hidden_states.weight = layers.empty() ? 0 : 1;
    config.objective.hidden_states.layers = std::move(layers);
    return plan_stage(config, models, {.num_ranks = 2}, 0);
  };
  constexpr std::int64_t half = 64 * 64 * 4, head = 300 * 64 * 4;
  const RankPlan plan = plan_of({});
  const TeacherPlan& teacher = *plan.teacher_apart;
  EXPECT_EQ(plan.rank, 1);
  EXPECT_EQ(teacher.passes, 4);
  EXPECT_EQ(teacher.num_tokens, 128);
  EXPECT_EQ(teacher.num_stages, 2);
  EXPECT_EQ(teacher.share, 0.5);
  const parallel::ExchangeCount* rows = exchange_of(teacher.traffic, "teacher", "all_to_all");
  ASSERT_NE(rows, nullptr);
  EXPECT_EQ(rows->calls, 4);
  EXPECT_EQ(rows->bytes, half);
  EXPECT_NEAR(static_cast<double>(plan.memory.teacher - teacher.bytes), static_cast<double>(head), 512);
  const std::int64_t layer = nn::count_parameters(*models.teacher).total - 2 * 300 * 64 - 64;  // of both
  EXPECT_NEAR(static_cast<double>(teacher.bytes - head), static_cast<double>(layer / 2 * 4), 8192);
  const RankPlan matched = plan_of({0, 1});
  rows = exchange_of(matched.teacher_apart->traffic, "teacher", "all_to_all");
  ASSERT_NE(rows, nullptr);
  EXPECT_EQ(rows->calls, 3 * 4);  // of the layer that it lacks it takes rows
  EXPECT_EQ(rows->bytes, 2 * half);
  // What figures ask for stays beside it.
  config.evaluation.set.emplace_back();
  EXPECT_GT(plan_of({}).memory.teacher, plan.memory.teacher + layer * 4);
}

// Two ranks ask both of the teacher's, of two sequences of 32 tokens each: a head of four numbers, and three columns;
// the teacher's first answers each with a number and rows.
TEST(ImaginedRun, ATeacherOnRanksOfItsOwnIsAskedAndAnswers) {
  RunConfig config = config_with("parallel { layout: \"dp2\" teacher_ranks: 2 teacher_layout: \"tp2\" }");
  config.teacher.emplace();
  PlannedModels models = models_of(config);
  models.teacher = models.student;
  const RankPlan plan = plan_rank(config, models, {.num_ranks = 2});
  const TeacherPlan& teacher = *plan.teacher_apart;
  const parallel::ExchangeCount *asks = exchange_of(plan.traffic, "world", "send"),
                                *answers = exchange_of(teacher.traffic, "world", "send");
  ASSERT_NE(asks, nullptr);
  EXPECT_EQ(asks->calls, 2 * 2);
  EXPECT_EQ(asks->bytes, 2 * (4 * 8 + 3 * 64 * 4));
  EXPECT_EQ(asks->ranks.size(), 4U);
  ASSERT_NE(answers, nullptr);
  EXPECT_EQ(answers->calls, 2 * 2);
  EXPECT_EQ(answers->bytes, 2 * (8 + 64 * 64 * 4));
  EXPECT_EQ(teacher.passes, 2);
  EXPECT_EQ(teacher.num_tokens, 128);
  EXPECT_NE(exchange_of(teacher.traffic, "tp", "all_reduce"), nullptr);
  EXPECT_EQ(exchange_of(plan.traffic, "tp", "all_reduce"), nullptr);
  // The student's have the head alone in steps, the teacher's all, half of each matrix that tp cuts.
  EXPECT_NEAR(static_cast<double>(plan.memory.teacher), 300.0 * 64 * 4, 512);
  EXPECT_EQ(teacher.memory.teacher, teacher.bytes);
  EXPECT_LT(teacher.bytes, 4 * nn::count_parameters(*models.teacher).total);
  EXPECT_GT(teacher.memory.activations, 0);
  EXPECT_GE(teacher.memory.held, teacher.memory.peak());
  // Twice as many micro-batches are of half as many rows, with as many numbers beside.
  config.batch.micro_batches *= 2;
  const TeacherPlan halves = plan_teacher_ranks(config, models, {.num_ranks = 2});
  answers = exchange_of(halves.traffic, "world", "send");
  ASSERT_NE(answers, nullptr);
  EXPECT_EQ(answers->calls, 2 * 2 * 2);
  EXPECT_EQ(answers->bytes, 2 * (2 * 8 + 64 * 64 * 4));
  EXPECT_EQ(halves.passes, 4);
  EXPECT_EQ(halves.num_tokens, 128);
  EXPECT_NEAR(static_cast<double>(halves.given_bytes) / static_cast<double>(teacher.given_bytes), 1, 0.25);
}

// Of 6 sequences each of three ranks asks for two: the first of two replicas twice. The last has as many of the
// experts. Of 5 the second of two ranks asks for three, of a replica of its own.
TEST(ImaginedRun, OfATeachersReplicasTheBusiestIsPlanned) {
  RunConfig config = config_with("parallel { teacher_ranks: 2 teacher_layout: \"ep2\" }");
  config.teacher.emplace();
  config.precision.sharded_teacher = true;
  config.batch.sequences_per_step = 6;
  PlannedModels models = models_of(config);
  models.teacher = models.student;
  const TeacherPlan of_three = plan_teacher_ranks(config, models, {.num_ranks = 3});
  EXPECT_EQ(of_three.passes, 2);
  EXPECT_EQ(of_three.num_tokens, 4 * 32);
  config.precision.sharded_teacher = false;
  config.parallel.teacher_layout = "dp2";
  config.batch.sequences_per_step = 5;
  const TeacherPlan of_two = plan_teacher_ranks(config, models, {.num_ranks = 2});
  EXPECT_EQ(of_two.passes, 1);
  EXPECT_EQ(of_two.num_tokens, 3 * 32);
  const parallel::ExchangeCount* answers = exchange_of(of_two.traffic, "world", "send");
  ASSERT_NE(answers, nullptr);
  EXPECT_EQ(answers->bytes, 8 + 3 * 32 * 64 * 4);
}

TEST(ImaginedRun, ATeachersRanksArePlannedOnceForWhatTheStudentShares) {
  RunConfig config = config_with("parallel { layout: \"dp2\" teacher_ranks: 1 }");
  config.teacher.emplace();
  PlannedModels models = models_of(config);
  models.teacher = models.student;
  const PlannedWorld world{.num_ranks = 2};
  TeacherPlans teachers(models, world);
  const TeacherPlan* const plan = teachers.of(config);
  ASSERT_NE(plan, nullptr);
  EXPECT_EQ(plan->passes, 2);
  RunConfig other = config;
  other.parallel.shard = Shard::Parameters;
  other.train.recompute = true;
  EXPECT_EQ(teachers.of(other), plan);
  other.batch.micro_batches = 2;
  EXPECT_EQ(teachers.of(other)->passes, 4);
  other.parallel.layout = "tp2";
  EXPECT_EQ(teachers.of(other)->passes, 2);
  EXPECT_FALSE(plan_student(config, models, world).teacher_apart);
  config.parallel.teacher_ranks = 0;
  EXPECT_EQ(teachers.of(config), nullptr);
}

TEST(ImaginedRun, RecordedStepsAreOfOneRank) {
  RunConfig config = config_with("");
  const PlannedModels models = models_of(config);
  config.train.cuda_graph = true;
  const auto plan = [&](int num_ranks) {
    plan_rank(config, models, {.num_ranks = num_ranks, .device = {.has_queue = true}});
  };
  EXPECT_NO_THROW(plan(1));
  EXPECT_THAT([&] { plan(2); }, ::testing::ThrowsMessage<core::UsageError>(::testing::HasSubstr(
                                    "train.cuda_graph is true, expected one rank for it: 2 are running")));
}

// Whatever others choose. Beside rows of the experts there are weights and places of [T,E] in those of [T,K].
TEST(ImaginedRun, ExpertsThatChooseTakeTheirPart) {
  for (const std::string layout : {"dp1", "ep2", "tp2"}) {
    SCOPED_TRACE(layout);
    const auto given = [&](const std::string& routing, ExpertShares shares) {
      const RunConfig config = config_with("parallel { layout: \"" + layout + "\" } routing { " + routing + " }");
      return static_cast<double>(plan_rank(config, models_of(config),
                                           {.num_ranks = layout == "dp1" ? 1 : 2, .expert_shares = std::move(shares)})
                                     .given_bytes);
    };
    const double even = given("", {}), one = given("expert_choice: true", {});
    EXPECT_EQ(given("expert_choice: true", {{4, zipf_shares(4, 1)}}), one);
    if (layout == "tp2") continue;  // has room for all rows of a sequence on each rank
    EXPECT_GT(given("expert_choice: true capacity_factor: 1.5", {}), 1.05 * one);
    EXPECT_NEAR(one, even, 0.15 * even);
  }
}

// Of 32 tokens of each of four ranks, which choose two of E experts, a rank that has n of them gets
// 32 (1 - C(E - n, 2) / C(E, 2)): 11 and 19 for one and two of six, none and 21 for none and one of three.
TEST(ImaginedRun, TheLastRankHasMostOfUnevenExperts) {
  struct Uneven {
    std::int64_t experts, here, sent, received;  // experts; rows to other ranks, and from them
  };
  for (const Uneven& uneven : {Uneven{6, 2, 11 + 19 + 11, 3 * 19}, Uneven{3, 1, 0 + 21 + 21, 3 * 21}}) {
    SCOPED_TRACE(uneven.experts);
    const auto plan_of = [&](const std::string& layout, int ranks) {
      const RunConfig config = config_with("parallel { layout: \"" + layout + "\" }");
      PlannedModels models = models_of(config);
      models.student.moe.num_experts = uneven.experts;
      return plan_rank(config, models, {.num_ranks = ranks});
    };
    const RankPlan one = plan_of("dp1", 1), last = plan_of("ep4", 4);
    const std::int64_t elsewhere = 4 * 2 * (uneven.experts - uneven.here) * 3 * 64 * 64;
    EXPECT_EQ(last.parameter_bytes, one.parameter_bytes - elsewhere);
    EXPECT_EQ(last.gradient_bytes, one.gradient_bytes - elsewhere);
    EXPECT_EQ(last.optimizer_values, one.optimizer_values - elsewhere / 4);
    // Of a layer: a number to each other rank and a row's two choices; the row and its two weights there, what is made
    // of others' back; and, backward, the gradients of these.
    const std::int64_t row = 64 * 4, two = 2 * 4;
    const std::int64_t of_layer = 3 * 8 + uneven.sent * two + uneven.sent * (row + two) + uneven.received * row +
                                  uneven.sent * row + uneven.received * (row + two);
    const auto rows = std::ranges::find_if(last.traffic, [](const parallel::ExchangeCount& t) {
      return t.group == "experts" && t.operation == "all_to_all";
    });
    ASSERT_NE(rows, last.traffic.end());
    EXPECT_EQ(rows->bytes, 2 * of_layer);
  }
}

// Whose matrices are dealt to more ranks than there are: no rank steps on more than the last.
TEST(ImaginedRun, TheLastRankHasTheLargestShares) {
  struct Dealt {
    int experts, ep, ranks;
  };
  for (const Dealt& c : {Dealt{3, 2, 6}, Dealt{8, 4, 12}}) {
    SCOPED_TRACE(c.ranks);
    RunConfig config = config_with(fmt::format("parallel {{ layout: \"ep{}\" shard: OPTIMIZER }}", c.ep));
    config.batch.sequences_per_step = c.ranks;
    PlannedModels models = models_of(config);
    models.student.moe.num_experts = c.experts;
    nn::Transformer student(models.student, {.memory = core::Memory::imagined({})});
    std::int64_t most = 0;
    for (int rank = 0; rank < c.ranks; ++rank) {
      std::int64_t values = 0;
      for (const core::Parameter* p : student.parameters()) {
        const core::Shape& shape = p->global_shape;
        const std::int64_t here = core::slice_of(c.experts, rank % c.ep, c.ep).count;
        values += p->is_stack ? core::share_of({here, shape[1], shape[2]}, rank / c.ep, c.ranks / c.ep).count
                              : core::share_of(shape, rank, c.ranks).count;
      }
      most = std::max(most, values);
    }
    EXPECT_EQ(plan_rank(config, models, {.num_ranks = c.ranks}).optimizer_values, most);
    EXPECT_GT(most, 2 * 3 * 64 * 64) << "of each matrix of two layers a whole expert";
  }
}

TEST(ImaginedRun, ExpertsThatAreDealtAnewNeedNotBeAsManyOnEachRank) {
  const RunConfig config = config_with("parallel { layout: \"ep2\" deal_experts_every_steps: 1 }");
  PlannedModels models = models_of(config);
  for (const std::int64_t num_experts : {4, 3}) {
    models.student.moe.num_experts = num_experts;
    EXPECT_NO_THROW(plan_rank(config, models, {.num_ranks = 2})) << num_experts;
  }
}

// What is frozen has no gradient; weights count in the dtype that passes read.
TEST(ImaginedRun, BytesAreThoseOfWhatIsTrained) {
  const RunConfig whole = config_with("");
  const RankPlan plan = plan_rank(whole, models_of(whole), {});
  EXPECT_EQ(plan.gradient_bytes, 4 * plan.trainable);
  EXPECT_EQ(plan.parameter_bytes, 4 * plan.trainable);
  const RunConfig narrow = config_with(
      "precision { compute: BFLOAT16 bfloat16_weights: true } optimizer { groups { pattern: \"embed.*\" "
      "frozen: true } }");
  const RankPlan of_narrow = plan_rank(narrow, models_of(narrow), {});
  EXPECT_EQ(of_narrow.trainable, plan.trainable - 300 * 64);
  EXPECT_EQ(of_narrow.gradient_bytes, 4 * of_narrow.trainable);
  EXPECT_EQ(of_narrow.parameter_bytes, 2 * plan.trainable + 2 * 5 * 64);  // five norms stay float32
}

// The first of two stages holds two micro-batches under way, the last one the head and its logits: which of them takes
// most is the vocabulary's doing. Both tell how much is trained of all layers.
TEST(ImaginedRun, OfAPipelineIsTheStageThatTakesMost) {
  RunConfig config = config_with("parallel { layout: \"pp2\" }");
  config.batch.micro_batches = 4;
  PlannedModels models = models_of(config);
  const RankPlan of_small = plan_rank(config, models, {.num_ranks = 2});
  EXPECT_EQ(of_small.stage, 0);
  EXPECT_TRUE(of_small.is_of_stages());
  EXPECT_EQ(of_small.trainable, plan_rank(config_with(""), models, {}).trainable);
  models.student.vocabulary = 30'000;
  EXPECT_EQ(plan_rank(config, models, {.num_ranks = 2}).stage, 1);
  EXPECT_EQ(plan_rank(config, models, {.num_ranks = 4}).stage, 1);
}

// Nothing is made of sizes alone here: steps take time.
TEST(ImaginedRun, StepsAreMadeForGoodInAMemoryThatIsThere) {
  const RunConfig config = config_with("");
  testing::run_ranks(1, [&](testing::RankWorld& world) {
    const std::vector<double> seconds =
        seconds_of_steps(config, models_of(config), world.comm, core::Memory::cpu(1), 3);
    ASSERT_EQ(seconds.size(), 3U);
    for (const double each : seconds) EXPECT_GT(each, 0);
  });
}

}  // namespace
}  // namespace limbeck::launch
