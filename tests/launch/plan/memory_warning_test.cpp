#include "launch/plan/memory_warning.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <utility>

namespace limbeck::launch {
namespace {

using ::testing::HasSubstr;

class MemoryWarning : public ::testing::Test {
 protected:
  MemoryWarning() {
    models.student = config.model->architecture;
    models.tokens = 300;
  }
  /// Without copies of what is saved.
  std::int64_t held_where_steps_wait() const {
    RunConfig waits = config;
    waits.train.save_in_background = false;
    return plan_rank(waits, models, world).memory.held;
  }
  std::optional<std::string> warning(std::int64_t may_take) const {
    return memory_warning(config, models, world, may_take);
  }

  RunConfig config = parse_config(R"(
model { vocabulary: 300 width: 256 num_layers: 2 num_heads: 4 num_kv_heads: 4 mlp_width: 512 max_positions: 64 }
data { text: "t" tokenizer: "bytes" sequence_length: 32 }
batch { sequences_per_step: 4 }
parallel { bucket_mib: 0.25 }
)",
                                  "c");
  PlannedModels models;
  PlannedWorld world{.num_ranks = 2};
};

TEST_F(MemoryWarning, SaysWhatARankTakesWhereItIsMore) {
  const std::int64_t held = held_where_steps_wait(), state = plan_state(config, models, world).kept();
  EXPECT_FALSE(warning(held));
  const auto gib = [](std::int64_t bytes) { return static_cast<double>(bytes) / (1LL << 30); };
  const auto said = warning(held - 1);
  ASSERT_TRUE(said);
  EXPECT_THAT(*said, HasSubstr(fmt::format("to take {:.3f} GiB of memory, {:.3f} of them before its first step, and "
                                           "may take {:.3f}, ",
                                           gib(held), gib(state), gib(held - 1))));
  EXPECT_EQ(said->find('\n'), std::string::npos);
}

// Where it has no room, steps wait for the disk (Trainer::may_copy).
TEST_F(MemoryWarning, ACopyOfWhatIsSavedMayLackRoom) {
  models.student.num_layers = 8;
  config.train.steps = 9;
  config.train.checkpoint_every_steps = 4;
  const std::int64_t held = held_where_steps_wait();
  ASSERT_GT(plan_rank(config, models, world).memory.held, held);
  EXPECT_FALSE(warning(held));
  EXPECT_TRUE(warning(held - 1));
}

// What no world is asked of is no less than what is planned, and not much more.
TEST_F(MemoryWarning, ABoundOfTheStateNeedsNoWorld) {
  for (const auto& [layout, shard] :
       {std::pair("", Shard::Nothing), std::pair("", Shard::Optimizer), std::pair("", Shard::Gradients),
        std::pair("", Shard::Parameters), std::pair("tp2", Shard::Nothing), std::pair("tp2", Shard::Parameters)}) {
    config.parallel.layout = layout;
    config.parallel.shard = shard;
    const auto bound = static_cast<double>(state_bound(config, models, world.num_ranks)),
               kept = static_cast<double>(plan_state(config, models, world).kept());
    EXPECT_GE(1.05 * bound, kept) << layout << static_cast<int>(shard);
    EXPECT_LE(bound, 2 * kept) << layout << static_cast<int>(shard);
  }
}

// It is not trained, so that it is whole on each rank.
TEST_F(MemoryWarning, ABoundOfTheStateHasAModelBesideAdaptersWhole) {
  config.parallel.shard = Shard::Parameters;
  config.adapters.emplace();
  config.batch.sequences_per_step = world.num_ranks = 8;
  EXPECT_GE(state_bound(config, models, world.num_ranks), plan_state(config, models, world).kept());
}

TEST_F(MemoryWarning, ABoundOfTheStateIsOfTheRankWithMostExperts) {
  struct Case {
    const char* layout;
    int experts, ranks;
  };
  config.batch.sequences_per_step = 8;
  config.parallel.shard = Shard::Parameters;
  models.student.moe.experts_per_token = 2;
  models.student.moe.expert_width = 512;
  // The last ranks have two of three experts, one of two, and one of three, which is whole where another is cut.
  for (const Case& c : {Case{"ep2", 3, 2}, Case{"ep8", 2, 8}, Case{"ep2", 3, 6}}) {
    config.parallel.layout = c.layout;
    models.student.moe.num_experts = c.experts;
    world.num_ranks = c.ranks;
    const auto bound = static_cast<double>(state_bound(config, models, c.ranks)),
               kept = static_cast<double>(plan_state(config, models, world).kept());
    EXPECT_GE(1.05 * bound, kept) << c.layout << " " << c.ranks;
    EXPECT_LE(bound, 2 * kept) << c.layout << " " << c.ranks;
  }
}

// That of steps, over all ranks, and the one that evaluation sets ask, by the student's layout.
TEST_F(MemoryWarning, ABoundOfTheStateHasBothTeachers) {
  config.teacher.emplace();
  config.parallel.teacher_layout = "dp2";
  models.teacher = models.student;
  models.teacher->num_layers = 8;
  const auto bound = [&] { return static_cast<double>(state_bound(config, models, world.num_ranks)); };
  const double of_one = bound();
  config.evaluation.set.emplace_back();
  const auto kept = static_cast<double>(plan_state(config, models, world).kept());
  EXPECT_DOUBLE_EQ(bound() - of_one, 4 * static_cast<double>(nn::count_parameters(*models.teacher).total));
  EXPECT_GE(1.05 * bound(), kept);
  EXPECT_LT(of_one, kept);
}

// A long sequence of narrow layers takes more than its state by far.
TEST_F(MemoryWarning, IsOfPassesToo) {
  const std::int64_t state = plan_state(config, models, world).kept();
  models.student.max_positions = config.data.sequence_length = 65'536;
  const std::int64_t held = held_where_steps_wait();
  ASSERT_GT(held, 22 * state);
  EXPECT_TRUE(warning(21 * state));
  EXPECT_TRUE(warning(held - 1));
  EXPECT_FALSE(warning(held));
}

// Of 4 sequences of 32 tokens a rank of two reads half, a layer of 256 channels of four bytes: what is kept to compute
// it again. A stage of two has one layer of each micro-batch: the first of two at once, with weights apart the last too.
TEST_F(MemoryWarning, ABoundOfPassesIsWhatMicroBatchesInFlightKeep) {
  config.train.recompute = true;
  constexpr std::int64_t layer = 4 * 256, tokens = 4 * 32;
  EXPECT_EQ(passes_bound(config, models, world), 2 * layer * tokens / 2);
  config.parallel.layout = "pp2";
  EXPECT_EQ(passes_bound(config, models, world), layer * tokens);
  config.batch.micro_batches = 4;
  EXPECT_EQ(passes_bound(config, models, world), 2 * layer * tokens / 4);
  config.parallel.stages = {0, 2};
  EXPECT_EQ(passes_bound(config, models, world), 2 * layer * tokens / 4);  // of one micro-batch
  config.parallel.schedule = PipelineKind::ZeroBubble;
  EXPECT_EQ(passes_bound(config, models, world), 2 * 2 * layer * tokens / 4);
}

// What layers make is about what steps keep of them.
TEST_F(MemoryWarning, ABoundOfPassesIsAboutWhatStepsTake) {
  config.data.sequence_length = models.student.max_positions = 4096;
  for (const char* layout : {"", "pp2"}) {
    config.parallel.layout = layout;
    const auto bound = static_cast<double>(passes_bound(config, models, world)),
               taken = static_cast<double>(plan_rank(config, models, world).memory.activations);
    EXPECT_LT(bound, 2 * taken) << layout;
    EXPECT_LT(taken, 2 * bound) << layout;
  }
}

// The stage that takes most, what it keeps, and what keeps less.
TEST_F(MemoryWarning, NamesTheStageAndItsSettings) {
  config.batch.micro_batches = 4;
  config.parallel.layout = "pp2";
  config.parallel.stages = {0, 2};
  const auto said = [&] { return warning(held_where_steps_wait() - 1).value_or("nothing"); };
  EXPECT_THAT(said(), ::testing::EndsWith("; stage 1 keeps activations of up to 1 micro-batch at once, of "
                                          "batch.micro_batches = 4"));
  config.parallel.schedule = PipelineKind::ZeroBubble;
  EXPECT_THAT(said(), ::testing::EndsWith("; stage 1 keeps activations of up to 2 micro-batches at once, of "
                                          "batch.micro_batches = 4, of 1 with parallel.schedule ONE_F_ONE_B"));
  EXPECT_EQ(said().find('\n'), std::string::npos);
  config.parallel.stages.clear();
  EXPECT_THAT(said(), HasSubstr("parallel.shard, train.recompute, more batch.micro_batches and other layouts"));
}

// Of AdamW's float32 state 16 bytes a value, of which OPTIMIZER deals 8 over the ranks.
TEST_F(MemoryWarning, StateIsThatOfTheOptimizer) {
  const auto values = static_cast<double>(nn::count_parameters(models.student).total);
  const auto kept = [&] { return static_cast<double>(plan_state(config, models, world).kept()); };
  EXPECT_NEAR(kept(), 16 * values, 0.02 * kept());
  EXPECT_LE(kept(), static_cast<double>(plan_rank(config, models, world).memory.kept()));
  config.parallel.shard = Shard::Optimizer;
  EXPECT_NEAR(kept(), 12 * values, 0.02 * kept());
}

// The run itself says what is wrong with its config.
TEST_F(MemoryWarning, IsSilentOfWhatIsNotPlanned) {
  ASSERT_TRUE(warning(1));
  RunConfig other = config;
  other.objective.bridge = Bridge::Uld;
  EXPECT_FALSE(memory_warning(other, models, world, 1));
  other = config;
  other.parallel.layout = "tp3";
  EXPECT_FALSE(memory_warning(other, models, world, 1));
}

}  // namespace
}  // namespace limbeck::launch
