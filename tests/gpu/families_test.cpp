// Models of families that people have on GPUs: the loss and every gradient that transformers computes, under layouts
// of several.
#include <gtest/gtest.h>

#include <utility>

#include "launch/run/step.h"
#include "optim/objectives.h"
#include "tests/gpu/gpus.h"
#include "tests/support/family_reference.h"
#include "tests/support/thread_ranks.h"

namespace limbeck {
namespace {

std::pair<const char*, int> layout_of(const nn::ModelConfig& config) {
  const std::int64_t experts = config.moe.num_experts;
  if (experts == 0) return {"tp2", 2};
  return experts % 2 == 0 ? std::pair("tp2ep2", 4) : std::pair("tp2ep3", 6);
}

// Those that have between them whatever a family has of its own.
TEST(GpuFamilies, LossAndGradientsAreThoseOfTransformers) {
  for (const char* family : {"gemma3", "qwen2_moe", "olmoe", "phi4_mini", "phimoe", "gpt2", "deepseek_v3", "gpt_oss",
                             "glm4_moe", "mamba2", "bamba", "granite_hybrid"}) {
    const testing::FamilyReference reference(family);
    const data::HuggingFaceModel source(reference.folder());
    const auto expected = reference.gradients();
    const double loss = reference.values("/loss").at(0);
    const auto [layout, ranks] = layout_of(source.model_config());
    testing::run_ranks(ranks, [&, layout = layout](testing::RankWorld& world) {
      SCOPED_TRACE(fmt::format("{} {} rank {}", family, layout, world.rank));
      launch::Rank rank(world.comm, layout, 1, /*sequence_parallel=*/false, testing::gpu_memory(world.rank));
      nn::Transformer model(source.model_config(), rank.sharded(core::DType::F32));
      model.load(source);
      parallel::GradientSync sync(model.parameters(), rank.mesh(), rank.memory(), core::DType::F32);
      const optim::LanguageModelling objective;
      const launch::StepResult result =
          launch::forward_backward(rank, {model, nullptr, objective}, reference.samples(), {}, sync);
      EXPECT_NEAR(result.loss(), loss, 1e-5 * loss);
      EXPECT_LE(testing::worst_gradient_error(model.parameters(), expected), 1e-4);
    });
  }
}

}  // namespace
}  // namespace limbeck
