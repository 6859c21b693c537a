// Direct preference optimisation: loss, figures and gradients are PyTorch's (tests/golden/models), one under any
// layout.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "data/text/token_file.h"
#include "launch/run/step.h"
#include "optim/objectives.h"
#include "tests/support/golden_model.h"
#include "tests/support/step_layouts.h"
#include "tests/support/temporary_folder.h"
#include "tests/support/thread_ranks.h"

namespace limbeck {
namespace {

using core::DType;
using testing::GoldenModel;
using testing::pairs_of;
using testing::StepLayout;

class PreferenceLayouts : public ::testing::TestWithParam<StepLayout> {};

TEST_P(PreferenceLayouts, LossAndGradientsAreThoseOfPyTorch) {
  const GoldenModel golden("preferences.h5");
  const StepLayout& layout = GetParam();
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
                         ::testing::Values(StepLayout{"dp1", 1}, StepLayout{"dp1", 1, 3},
                                           StepLayout{"dp1", 1, 2, false, true}, StepLayout{"dp2", 2},
                                           StepLayout{"dp4", 4}, StepLayout{"dp4", 4, 2}, StepLayout{"tp2", 2},
                                           StepLayout{"tp2", 2, 2, true}, StepLayout{"ep2", 2},
                                           StepLayout{"ep2", 2, 2, false, true}, StepLayout{"tp2ep2", 4}),
                         testing::name_of_layout);

/// A step of pairs in memory that the host cannot read, as a GPU's is: the same bits, and no more reads than of text.
TEST(Preference, StepsNeedNoHand) {
  const GoldenModel golden("preferences.h5");
  std::vector<std::vector<double>> gradients;
  std::vector<double> losses;
  for (const bool is_hidden : {false, true})
    testing::run_ranks(1, [&](testing::RankWorld& world) {
      launch::Rank rank(world.comm, "dp1", 1, false, is_hidden ? core::Memory::hidden_cpu(1) : core::Memory::cpu(1));
      nn::Transformer model(golden.config(), rank.sharded(DType::F32));
      model.load(golden.parameters());
      nn::Transformer reference(golden.config(), rank.frozen_copy(DType::F32));
      reference.load(golden.parameters("/reference/parameters"));
      parallel::GradientSync sync(model.parameters(), rank.mesh(), rank.memory(), DType::F32);
      const optim::LanguageModelling objective;
      const std::int64_t before = rank.memory()->host_reads;
      const launch::StepResult result = launch::forward_backward(rank, {model, &reference, objective}, pairs_of(golden),
                                                                 {.micro_batches = 2, .preference_beta = 0.1}, sync);
      if (is_hidden) {
        EXPECT_EQ(rank.memory()->host_reads - before, 2);  // losses, and the experts' load
      }
      losses.push_back(result.loss());
      for (const core::Parameter* p : model.parameters())
        gradients.push_back(testing::values_of(p->slot->grad.in(rank.host_memory())));
    });
  EXPECT_EQ(losses[0], losses[1]);
  const std::size_t each = gradients.size() / 2;
  for (std::size_t i = 0; i < each; ++i) EXPECT_EQ(gradients[i], gradients[each + i]);
}

/// Pair i has i + 1 tokens in its prompt and one in each response. Nothing but filling is left out of a step.
TEST(Preference, AStepEndsBehindItsLongestPair) {
  const testing::TemporaryFolder folder;
  const std::string prefix = (folder.path() / "pairs").string();
  data::TokenFileWriter writer(prefix, 100, {}, /*has_mask=*/true);
  for (std::int32_t i = 0; i < 30; ++i)
    for (const std::int32_t response : {50, 51}) {
      std::vector<std::int32_t> ids(static_cast<std::size_t>(i + 1), i);
      std::vector<std::uint8_t> is_target(ids.size(), 0);
      ids.push_back(response);
      is_target.push_back(1);
      writer.add(ids, is_target);
    }
  writer.finish();
  data::Mixture text({{std::make_shared<data::TokenFile>(prefix), 1}},
                     {.sequence_length = 62, .vocabulary = 100, .seed = 4, .held_out = 0, .has_pairs = true});
  std::set<std::int64_t> lengths;
  for (std::int64_t first = 0; first < 60; first += 2) {
    const launch::StepText step = launch::text_of_step(text, first, 2);
    const data::TokenBatch whole = text.fetch(first, 2);
    std::int64_t longest = 0;
    for (const std::size_t row : {0, 62}) longest = std::max<std::int64_t>(longest, 2 * (whole.tokens[row] + 2));
    const std::int64_t length = std::min<std::int64_t>((longest + 15) / 16 * 16, 62);
    lengths.insert(length);
    EXPECT_EQ(step.num_pairs, 2);
    EXPECT_EQ(step.num_sequences, 2);
    EXPECT_EQ(step.num_tokens, 2 * length);
    EXPECT_EQ(step.num_targets, 4);
    for (const auto& [from, count] : {std::pair<std::int64_t, std::int64_t>{0, 2}, {1, 1}, {2, 0}}) {
      const data::TokenBatch found = step.fetch(from, count);
      EXPECT_EQ(found.num_sequences, count);
      EXPECT_EQ(found.sequence_length, length);
      EXPECT_EQ(found.num_targets(), 2 * count);
      for (std::int64_t n = 0; n < count; ++n)
        for (const auto column : {&data::TokenBatch::tokens, &data::TokenBatch::targets, &data::TokenBatch::positions,
                                  &data::TokenBatch::documents})
          EXPECT_TRUE(std::equal((found.*column).begin() + n * length, (found.*column).begin() + (n + 1) * length,
                                 (whole.*column).begin() + (from + n) * 62));
      EXPECT_EQ(found.pieces.size(), static_cast<std::size_t>(2 * count));
      for (const data::TokenBatch::Piece& piece : found.pieces) {
        EXPECT_EQ(found.tokens[static_cast<std::size_t>(piece.first)], piece.document / 2);
        EXPECT_EQ(piece.count, piece.document / 2 + 2);
      }
    }
    const data::TokenBatch shortest = launch::without_filling(whole);
    EXPECT_EQ(shortest.sequence_length, length);
    EXPECT_EQ(shortest.tokens, step.fetch(0, 2).tokens);
  }
  EXPECT_GE(lengths.size(), 3U);
}

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
