// Direct preference optimisation: loss, figures and gradients are PyTorch's (tests/golden/models), one under any
// layout.

#include <gtest/gtest.h>

#include <cmath>

#include "launch/run/step.h"
#include "optim/objectives.h"
#include "tests/support/golden_model.h"
#include "tests/support/thread_ranks.h"

namespace limbeck {
namespace {

using core::DType;
using testing::GoldenModel;

launch::StepText pairs_of(const GoldenModel& golden) {
  launch::StepText text(golden.samples());
  text.num_pairs = text.num_sequences;
  return text;
}

struct Layout {
  const char* name;
  int ranks;
  std::int64_t micro_batches = 1;
  bool sequence_parallel = false;
  bool recompute = false;
};

class PreferenceLayouts : public ::testing::TestWithParam<Layout> {};

TEST_P(PreferenceLayouts, LossAndGradientsAreThoseOfPyTorch) {
  const GoldenModel golden("preferences.h5");
  const Layout& layout = GetParam();
  for (const DType dtype : {DType::F64, DType::F32})
    testing::run_ranks(layout.ranks, [&](testing::RankWorld& world) {
      launch::Rank rank(world.comm, layout.name, 1, layout.sequence_parallel);
      nn::Transformer model(golden.config(), rank.sharded(dtype));
      model.load(golden.parameters());
      nn::Transformer reference(golden.config(), rank.frozen_copy(dtype));
      reference.load(golden.parameters("/reference/parameters"));
      parallel::GradientSync sync(model.parameters(), rank.mesh(), rank.memory(), dtype, 4096);
      const optim::LanguageModelling objective;
      const launch::StepResult result = launch::forward_backward(rank, {model, &reference, objective}, pairs_of(golden),
                                                                 {.micro_batches = layout.micro_batches,
                                                                  .router = golden.router(),
                                                                  .recompute = layout.recompute,
                                                                  .preference_beta = golden.number("beta")},
                                                                 sync);
      const double tolerance = dtype == DType::F64 ? 1e-11 : 2e-5;
      EXPECT_NEAR(result.loss(), golden.value("/loss/total"), tolerance);
      EXPECT_EQ(result.head.tokens, golden.number("num_valid"));
      ASSERT_TRUE(result.preference);
      EXPECT_NEAR(result.preference->loss, golden.value("/loss/preference"), tolerance);
      EXPECT_NEAR(result.preference->margin, golden.value("/loss/margin"), tolerance);
      EXPECT_NEAR(result.preference->chosen, golden.value("/loss/chosen"), tolerance);
      EXPECT_NEAR(result.preference->rejected, golden.value("/loss/rejected"), tolerance);
      EXPECT_EQ(result.preference->accuracy, golden.value("/loss/accuracy"));
      EXPECT_LE(golden.worst_gradient_error(model.parameters()), dtype == DType::F64 ? 1e-7 : 1e-4);
    });
}

INSTANTIATE_TEST_SUITE_P(Threads, PreferenceLayouts,
                         ::testing::Values(Layout{"dp1", 1}, Layout{"dp1", 1, 3}, Layout{"dp1", 1, 2, false, true},
                                           Layout{"dp2", 2}, Layout{"dp4", 4}, Layout{"dp4", 4, 2}, Layout{"tp2", 2},
                                           Layout{"tp2", 2, 2, true}, Layout{"ep2", 2},
                                           Layout{"ep2", 2, 2, false, true}, Layout{"tp2ep2", 4}),
                         [](const auto& layout) {
                           return fmt::format("{}_in_{}{}{}", layout.param.name, layout.param.micro_batches,
                                              layout.param.sequence_parallel ? "_sequence" : "",
                                              layout.param.recompute ? "_recompute" : "");
                         });

/// Before the first step model and reference are one: no pair is right, and each loses log 2.
TEST(Preference, OfTheReferenceItselfIsNone) {
  const GoldenModel golden("preferences.h5");
  testing::run_ranks(1, [&](testing::RankWorld& world) {
    launch::Rank rank(world.comm, "dp1", 1);
    nn::Transformer model(golden.config(), rank.sharded(DType::F32));
    model.load(golden.parameters());
    nn::Transformer reference(golden.config(), rank.frozen_copy(DType::F32));
    reference.load(golden.parameters());
    parallel::GradientSync sync(model.parameters(), rank.mesh(), rank.memory(), DType::F32);
    const optim::LanguageModelling objective;
    const launch::StepResult result = launch::forward_backward(rank, {model, &reference, objective}, pairs_of(golden),
                                                               {.preference_beta = 0.1}, sync);
    EXPECT_DOUBLE_EQ(result.objective, std::log(2.0));
    EXPECT_EQ(result.preference->margin, 0);
    EXPECT_EQ(result.preference->accuracy, 0);
    EXPECT_EQ(result.head.kl, 0);
    EXPECT_EQ(result.head.agreement, result.head.tokens);
    EXPECT_THROW(
        launch::forward_backward(rank, {model, nullptr, objective}, pairs_of(golden), {.preference_beta = 0.1}, sync),
        core::Error);
  });
}

}  // namespace
}  // namespace limbeck
