#include "launch/plan/plan_text.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace limbeck::launch {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

/// Of two ranks on devices of so much memory.
Plan plan_on(double memory_gib, int sequences_a_step) {
  RunConfig config = parse_config(R"(
model { vocabulary: 300 width: 128 num_layers: 1 num_heads: 4 num_kv_heads: 1 mlp_width: 64 max_positions: 64 }
data { text: "t" tokenizer: "bytes" sequence_length: 32 }
train { steps: 10 }
)",
                                  "c");
  config.batch.sequences_per_step = sequences_a_step;
  Plan plan{.config = config,
            .models = {.student = config.model->architecture, .tokens = 257},
            .world = {.num_ranks = 2},
            .rank = {}};
  plan.cluster = Cluster{.name = "two", .devices_a_node = 2, .memory_gib = memory_gib};
  plan.cluster->float32_tflops = 1;
  plan.cluster->memory_gb_s = 100;
  plan.cluster->inside = {.gb_s = 10, .latency_us = 5};
  plan.rank = plan_rank(plan.config, plan.models, plan.world);
  plan.time = step_time(plan.config, plan.models, plan.rank, plan.world, *plan.cluster);
  plan.run = run_figures(plan.config, *plan.time, plan.world, *plan.cluster);
  plan.layouts = best_layouts(plan.config, plan.models, plan.world, *plan.cluster, 10);
  return plan;
}

TEST(PlanText, SaysWhetherTheRunFits) {
  const Plan fits = plan_on(8, 4), too_large = plan_on(0.001, 4);
  EXPECT_THAT(plan_text(fits), Not(HasSubstr("does not fit")));
  EXPECT_EQ(plan_json(fits).at("fits"), true);
  EXPECT_THAT(plan_text(too_large), HasSubstr("\nit does not fit into the 0.0 GiB of a device\n"));
  EXPECT_EQ(plan_json(too_large).at("fits"), false);
}

// One key/value head is not cut over tp, one layer not over pp, so that dp2 alone is left, which one sequence does not
// feed.
TEST(PlanText, SaysWhyNoLayoutIsThere) {
  EXPECT_THAT(plan_text(plan_on(0.001, 4)), HasSubstr("\nno layout of 2 ranks fits into 0.0 GiB a device\n"));
  EXPECT_THAT(plan_text(plan_on(0.001, 1)),
              HasSubstr("no layout of 2 ranks gives each a sequence in each pass (batch.sequences_per_step is 1, "
                        "batch.micro_batches 1), and the config's own does not fit into 0.0 GiB"));
  EXPECT_THAT(plan_text(plan_on(8, 1)), HasSubstr("the fastest that fit into 8.0 GiB a device:\n"));
}

TEST(PlanText, SaysWhatATeacherInALayoutOfItsOwnTakes) {
  Plan plan = plan_on(8, 4);
  plan.models.teacher = plan.models.student;
  plan.config.teacher.emplace();
  plan.config.parallel.teacher_layout = "tp2";
  const auto plan_again = [&] {
    plan.rank = plan_rank(plan.config, plan.models, plan.world);
    plan.time = step_time(plan.config, plan.models, plan.rank, plan.world, *plan.cluster);
  };
  plan_again();
  EXPECT_THAT(plan_text(plan), ::testing::AllOf(HasSubstr("\ndp2 on 2 ranks, the teacher's tp2, memory of a rank:\n"),
                                                HasSubstr("\nwhat it sends for the teacher in a step:\n"),
                                                HasSubstr(", the teacher "), Not(HasSubstr("of the teacher, memory"))));
  nlohmann::json json = plan_json(plan);
  EXPECT_EQ(json["ranks"], 2);
  EXPECT_EQ(json["teacher"]["layout"], "tp2");
  EXPECT_FALSE(json["teacher"].contains("memory"));
  EXPECT_EQ(json["step"]["teacher"], json["teacher"]["step"]["seconds"]);
  plan.config.parallel.teacher_ranks = 2;
  plan_again();
  EXPECT_THAT(plan_text(plan), ::testing::AllOf(HasSubstr("\ndp2 on 2 ranks, memory of a rank:\n"),
                                                HasSubstr("\ntp2 on 2 ranks of the teacher, memory of a rank:\n"),
                                                HasSubstr("\nwhat a rank of the teacher's sends in a step:\n"),
                                                HasSubstr(" for the teacher, which takes ")));
  json = plan_json(plan);
  EXPECT_EQ(json["ranks"], 4);
  EXPECT_EQ(json["teacher"]["fits"], true);
  EXPECT_GT(json["teacher"]["memory"]["teacher"], 0);
  EXPECT_EQ(json["teacher"]["traffic"].size(), plan.rank.teacher_apart->traffic.size());
  plan.layouts.clear();
  EXPECT_THAT(plan_text(plan), HasSubstr("\nno layout of 2 ranks fits into 8.0 GiB a device with a rank of the "
                                         "teacher's beside it on another\n"));
}

TEST(PlanText, SaysHowStagesWork) {
  Plan plan = plan_on(8, 4);
  PlannedLayout& layout = plan.layouts.front();
  layout.layout = "pp2";
  layout.work = StageWork{.schedule = PipelineKind::ZeroBubble, .chunks = 2, .micro_batches = 8};
  layout.time.waits = layout.time.seconds();  // half of what it is then
  EXPECT_THAT(plan_text(plan),
              ::testing::ContainsRegex("\n *pp2 +ZERO_BUBBLE, 2 chunks, 8 micro-batches +- .* 50 %"));
  EXPECT_THAT(plan_json(plan)["layouts"][0]["set"].get<std::vector<std::string>>(),
              ::testing::IsSupersetOf({"parallel.schedule=ZERO_BUBBLE", "parallel.chunks=2", "parallel.stages=[]",
                                       "batch.micro_batches=8"}));
}

}  // namespace
}  // namespace limbeck::launch
