// Texts that ranks with other data say together, each its share of them, are those that one rank says.
#include <gmock/gmock.h>

#include <algorithm>

#include "core/nn/generation.h"
#include "launch/run/pipeline.h"
#include "launch/run/rank.h"
#include "tests/support/golden_model.h"
#include "tests/support/layouts.h"
#include "tests/support/temporary_folder.h"
#include "tests/support/thread_ranks.h"

namespace limbeck {
namespace {

using core::DType;

TEST(DealtTexts, AreThoseOfOneRank) {
  const testing::GoldenModel golden("moe.h5");
  std::vector<std::vector<std::int32_t>> prompts;
  for (std::int32_t i = 0; i < 7; ++i) prompts.emplace_back(static_cast<std::size_t>(1 + i * 3 % 5), 11 * i + 3);
  const auto say = [&](launch::Rank& rank, nn::GenerateOptions options) {
    const launch::Pipeline pipeline = testing::pipeline_of(rank, golden.config(), {}, 1);
    nn::Transformer model(golden.config(), pipeline.part_of(rank.sharded(DType::F64), rank.mesh().pp().rank()));
    model.load(golden.parameters());
    options.max_tokens = 20;
    options.sampling = {.temperature = 1.5, .seed = 4};
    options.stop = {5, 6, 7, 8, 9, 10, 11, 12};
    return nn::generate_texts(model, prompts, options);
  };
  nn::Generated expected;
  testing::run_ranks(1, [&](testing::RankWorld& world) {
    launch::Rank rank(world.comm, "dp1", 1);
    expected = say(rank, {.at_once = 7});
  });
  std::size_t shortest = 20, longest = 0;
  for (const nn::Continuation& text : expected.texts) {
    shortest = std::min(shortest, text.tokens.size());
    longest = std::max(longest, text.tokens.size());
  }
  ASSERT_LT(shortest + 5, longest) << "they end at different times";
  for (const auto& [layout, ranks] :
       {std::pair{"dp2", 2}, {"dp4", 4}, {"ep4", 4}, {"tp2dp2", 4}, {"pp2dp2", 4}, {"cp2", 2}})
    for (const std::int64_t at_once : {2, 30}) {
      SCOPED_TRACE(fmt::format("{} {}", layout, at_once));
      testing::run_ranks(ranks, [&, name = layout](testing::RankWorld& world) {
        launch::Rank rank(world.comm, name, 1);
        const parallel::WorldComm& data = rank.mesh().data();
        const nn::Generated all = say(rank, {.at_once = at_once, .share = data.rank(), .shares = data.size()});
        ASSERT_EQ(all.texts.size(), prompts.size());
        for (std::size_t i = 0; i < prompts.size(); ++i) {
          EXPECT_EQ(all.texts[i].tokens, expected.texts[i].tokens) << i;
          EXPECT_EQ(all.texts[i].stop_token, expected.texts[i].stop_token) << i;
        }
        EXPECT_LT(all.prefill.tokens, expected.prefill.tokens);
        if (at_once < data.size()) return;
        EXPECT_GT(all.prefill.tokens, 0) << "each rank has run some of them";
      });
    }
}

TEST(DealtTexts, DraftsAreNot) {
  testing::run_ranks(1, [&](testing::RankWorld& world) {
    const launch::Rank rank(world.comm, "dp1", 1);
    const testing::GoldenModel golden("dense.h5");
    nn::Transformer model(golden.config(), rank.frozen_copy(DType::F64));
    model.load(golden.parameters());
    const std::vector<std::vector<std::int32_t>> prompts = {{1, 2}};
    EXPECT_THAT(
        testing::error_of([&] { nn::generate_texts(model, prompts, {.draft = &model, .share = 0, .shares = 2}); }),
        ::testing::HasSubstr("share 0 of 2"));
  });
}

}  // namespace
}  // namespace limbeck
