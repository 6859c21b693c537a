#include "launch/plan/memory_warning.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace limbeck::launch {
namespace {

using ::testing::HasSubstr;

class MemoryWarning : public ::testing::Test {
 protected:
  MemoryWarning() {
    models.student = config.model->architecture;
    models.tokens = 300;
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
  const std::int64_t held = plan_rank(config, models, world).memory.held,
                     state = plan_state(config, models, world).kept();
  EXPECT_FALSE(warning(held));
  const auto gib = [](std::int64_t bytes) { return static_cast<double>(bytes) / (1LL << 30); };
  const auto said = warning(held - 1);
  ASSERT_TRUE(said);
  EXPECT_THAT(*said, HasSubstr(fmt::format("to take {:.3f} GiB of memory, {:.3f} of them before its first step, and "
                                           "may take {:.3f}, ",
                                           gib(held), gib(state), gib(held - 1))));
  EXPECT_EQ(said->find('\n'), std::string::npos);
}

// A long sequence of narrow layers takes more than its state by far, which is too little to ask further.
TEST_F(MemoryWarning, PlansNoStepsOfALittleState) {
  const std::int64_t state = plan_state(config, models, world).kept();
  models.student.max_positions = config.data.sequence_length = 65'536;
  ASSERT_GT(plan_rank(config, models, world).memory.held, 22 * state);
  EXPECT_TRUE(warning(19 * state));
  EXPECT_FALSE(warning(21 * state));
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
  other.train.cuda_graph = true;
  EXPECT_FALSE(memory_warning(other, models, world, 1));
  other = config;
  other.parallel.layout = "tp3";
  EXPECT_FALSE(memory_warning(other, models, world, 1));
}

}  // namespace
}  // namespace limbeck::launch
