// Examples that no test can run are held to what they say by their shapes.
#include <gtest/gtest.h>

#include "launch/run/student_start.h"
#include "parallel/axes/mesh.h"
#include "tests/support/places.h"

namespace limbeck::launch {
namespace {

/// Values of the experts' three matrices.
double expert_values(const nn::ModelConfig& config) {
  return 3.0 * static_cast<double>(config.num_layers * config.moe.num_experts * config.moe.expert_width * config.width);
}

TEST(ExampleShapes, MixtralAndItsStudentFitSixteenGpus) {
  nn::ModelConfig mixtral;
  mixtral.vocabulary = 32000;
  mixtral.width = 4096;
  mixtral.num_layers = 32;
  mixtral.num_heads = 32;
  mixtral.num_kv_heads = 8;
  mixtral.head_width = 128;
  mixtral.mlp_width = 14336;
  mixtral.max_positions = 32768;
  mixtral.rope_base = 1e6;
  mixtral.moe.num_experts = 8;
  mixtral.moe.experts_per_token = 2;
  mixtral.moe.expert_width = 14336;
  ASSERT_EQ(nn::count_parameters(mixtral).total, 46702792704);  // as its card says, 46.7 billion
  const RunConfig config = load_config(testing::source_folder() / "examples/distill_mixtral.textproto");
  const nn::ModelConfig student = started_config(*config.student_init, mixtral, "Mixtral");
  const parallel::Layout layout = parallel::parse_layout(config.parallel.layout);
  parallel::check_world(layout, 16);
  ASSERT_EQ(mixtral.moe.num_experts % layout.ep, 0);
  ASSERT_TRUE(config.precision.sharded_teacher && config.precision.bfloat16_weights && config.train.recompute);
  EXPECT_EQ(config.batch.sequences_per_step % (16 * config.batch.micro_batches), 0);
  const auto on_a_gpu = [&](const nn::ModelConfig& model) {
    const double experts = expert_values(model);
    return static_cast<double>(nn::count_parameters(model).total) - experts + experts / static_cast<double>(layout.ep);
  };
  // Of a trained value bfloat16, its master, its gradient, and two moments of a byte; of a frozen one bfloat16.
  const double bytes = on_a_gpu(student) * (2 + 4 + 4 + 2) + on_a_gpu(mixtral) * 2;
  const double tokens = static_cast<double>(config.data.sequence_length * config.batch.sequences_per_step) /
                        static_cast<double>(16 * config.batch.micro_batches);  // of a GPU's micro-batch
  const double kept = tokens * static_cast<double>(student.width) * 2 * static_cast<double>(student.num_layers);
  EXPECT_LT(bytes + kept, 0.75 * 80 * (1LL << 30));
}

}  // namespace
}  // namespace limbeck::launch
