// Speculative sampling of one token: it is distributed as the model says, and a draft stays as often as it may.
#include "core/nn/sampling.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "tests/core/drawn_tokens.h"

namespace limbeck::nn {
namespace {

using testing::by_token;
using testing::chance;
using testing::ChiSquare;
using testing::overlap;

TEST(SpeculativeSampling, ATokenIsDistributedByTheModelAndStaysByTheOverlap) {
  const std::vector<double> p_logits = {0, 1, -1, 2, 0.5, -2}, q_logits = {1.5, 0, -1, 1, -3, 1};
  for (const SamplingOptions& options : {SamplingOptions{.temperature = 1, .seed = 4},
                                         SamplingOptions{.temperature = 0.7, .top_k = 4, .top_p = 0.9, .seed = 5}}) {
    const Distribution p = distribution_of(p_logits, options), q = distribution_of(q_logits, options);
    constexpr int draws = 40000;
    std::vector<double> counts(6), drafts(6), expected = by_token(p, 6), of_drafts = by_token(q, 6);
    int kept = 0;
    for (std::uint64_t i = 0; i < draws; ++i) {
      const std::int32_t draft = draw_draft(q, options, i);
      const auto other = replacement(draft, q, p, options, i);
      kept += other ? 0 : 1;
      counts[static_cast<std::size_t>(other.value_or(draft))] += 1;
      drafts[static_cast<std::size_t>(draft)] += 1;
    }
    const double share = overlap(expected, of_drafts);
    EXPECT_NEAR(overlap(p, q), share, 1e-15);
    EXPECT_NEAR(static_cast<double>(kept) / draws, share, 4 * std::sqrt(share * (1 - share) / draws));
    for (auto* means : {&expected, &of_drafts})
      for (double& mean : *means) mean *= draws;
    ChiSquare chosen, drawn;
    chosen.add(counts, expected);
    drawn.add(drafts, of_drafts);
    EXPECT_LT(chosen.deviations(), chance);
    EXPECT_LT(drawn.deviations(), chance);
  }
}

TEST(SpeculativeSampling, AlikeAllStayAndApartNone) {
  const SamplingOptions options{.temperature = 1, .seed = 9};
  const Distribution p = {{1, 0.25}, {4, 0.5}, {7, 0.25}}, q = {{0, 0.5}, {2, 0.5}};
  EXPECT_EQ(overlap(p, p), 1);
  EXPECT_EQ(overlap(p, q), 0);
  for (std::uint64_t i = 0; i < 2000; ++i) {
    EXPECT_FALSE(replacement(draw_draft(p, options, i), p, p, options, i));
    const auto other = replacement(draw_draft(q, options, i), q, p, options, i);
    ASSERT_TRUE(other);
    EXPECT_TRUE(*other == 1 || *other == 4 || *other == 7) << *other;
  }
}

// By its definition: the probabilities that sample() draws by.
TEST(SpeculativeSampling, ADistributionIsWhatIsSampledFrom) {
  const std::vector<double> logits = {0.3, 2, -std::numeric_limits<double>::infinity(), 1, 2, -0.5};
  for (const SamplingOptions& options : {SamplingOptions{.temperature = 1.3},
                                         {.temperature = 0.8, .top_k = 3},
                                         {.temperature = 1, .top_p = 0.7},
                                         {.temperature = 2, .top_k = 4, .top_p = 0.85}}) {
    const Distribution distribution = distribution_of(logits, options);
    EXPECT_TRUE(std::ranges::is_sorted(distribution, {}, &TokenProbability::token));
    std::vector<double> counts(logits.size()), expected = by_token(distribution, logits.size());
    double sum = 0;
    for (double& mean : expected) {
      sum += mean;
      mean *= 20000;
    }
    EXPECT_NEAR(sum, 1, 1e-12);
    for (std::uint64_t i = 0; i < 20000; ++i) counts[static_cast<std::size_t>(sample(logits, options, i))] += 1;
    ChiSquare drawn;
    drawn.add(counts, expected);
    EXPECT_LT(drawn.deviations(), chance);
  }
}

}  // namespace
}  // namespace limbeck::nn
