#include "core/ops/capacity.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "tests/support/gradient_check.h"
#include "tests/support/tensors.h"

namespace limbeck::core {
namespace {

using ::testing::ElementsAre;
using ::testing::ElementsAreArray;
using ::testing::HasSubstr;
using testing::tensor;
using ::testing::ThrowsMessage;

const auto memory = Memory::cpu(1);

std::vector<std::int32_t> kept(const std::vector<std::int32_t>& selection, std::int64_t selected,
                               const std::vector<std::int32_t>& sequence, std::int64_t experts, double factor) {
  const auto tokens = static_cast<std::int64_t>(sequence.size());
  return host_values<std::int32_t>(limit_capacity(Tensor::from<std::int32_t>(memory, {tokens, selected}, selection),
                                                  Tensor::from<std::int32_t>(memory, {tokens}, sequence), experts,
                                                  factor));
}

// 4 tokens, 2 choices, 4 experts: an even share of 2. Expert 0 is chosen by all four.
TEST(Capacity, TheFirstTokensOfASequenceAreKept) {
  const std::vector<std::int32_t> chosen = {0, 1, 2, 0, 0, 3, 1, 0}, one(4, 7);
  EXPECT_THAT(kept(chosen, 2, one, 4, 1), ElementsAre(0, 1, 2, 0, -1, 3, 1, -1));
  EXPECT_THAT(kept(chosen, 2, one, 4, 0.5), ElementsAre(0, 1, 2, -1, -1, 3, -1, -1));
  EXPECT_THAT(kept(chosen, 2, one, 4, 1.01), ElementsAre(0, 1, 2, 0, 0, 3, 1, -1));  // 2.02: 3 fit
  EXPECT_THAT(kept(chosen, 2, one, 4, 2), ElementsAreArray(chosen));
}

TEST(Capacity, EachSequenceHasItsOwn) {
  const std::vector<std::int32_t> same(6, 1);
  EXPECT_THAT(kept(same, 1, {0, 0, 0, 0, 1, 1}, 2, 1), ElementsAre(1, 1, -1, -1, 1, -1));
  // The last sequence's fate does not depend on the ones before it.
  EXPECT_THAT(kept({1, 1}, 1, {3, 3}, 2, 1), ElementsAre(1, -1));
}

TEST(Capacity, NoTokenAndATinyFactor) {
  EXPECT_THAT(kept({}, 2, {}, 4, 1), ElementsAre());
  EXPECT_THAT(kept({0, 1, 1, 0}, 2, {0, 0}, 2, 1e-9), ElementsAre(0, 1, -1, -1));  // rounded up to one
}

std::vector<std::int32_t> taken(const std::vector<double>& scores, std::int64_t experts,
                                const std::vector<std::int32_t>& sequence, std::int64_t per_token, double factor) {
  const auto tokens = static_cast<std::int64_t>(sequence.size());
  return host_values<std::int32_t>(choose_tokens(tensor<double>(memory, {tokens, experts}, scores),
                                                 Tensor::from<std::int32_t>(memory, {tokens}, sequence), per_token,
                                                 factor));
}

// 4 tokens and 2 experts, of which a token has one on average: two tokens for each, of which one has both.
TEST(ExpertChoice, EachExpertTakesItsBestTokens) {
  const std::vector<double> scores = {0.9, 0.1, 0.6, 0.4, 0.7, 0.3, 0.2, 0.8};
  EXPECT_THAT(taken(scores, 2, {0, 0, 0, 0}, 1, 1), ElementsAre(0, -1, -1, 1, 0, -1, -1, 1));
  EXPECT_THAT(taken(scores, 2, {0, 0, 0, 0}, 1, 0.5), ElementsAre(0, -1, -1, -1, -1, -1, -1, 1));
  EXPECT_THAT(taken(scores, 2, {0, 0, 0, 0}, 1, 1.01), ElementsAre(0, -1, 0, 1, 0, 1, -1, 1));  // 2.02: three
  EXPECT_THAT(taken(scores, 2, {0, 0, 0, 0}, 2, 9), ElementsAre(0, 1, 0, 1, 0, 1, 0, 1)) << "no more than there are";
  EXPECT_THAT(taken({}, 2, {}, 1, 1), ElementsAre());
}

TEST(ExpertChoice, SequencesAreForThemselves) {
  const std::vector<double> scores = {0.9, 0.8, 0.7, 0.1, 0.3, 0.2};
  EXPECT_THAT(taken(scores, 1, {0, 0, 0, 4, 4, 4}, 1, 0.3), ElementsAre(0, -1, -1, -1, 0, -1));
  EXPECT_THAT(taken(scores, 1, {1, 1, 1, 1, 1, 1}, 1, 0.3), ElementsAre(0, 0, -1, -1, -1, -1));
}

TEST(ExpertChoice, TiesGoToTheLowerTokenAndNoNumberIsTakenLast) {
  constexpr double nan = std::numeric_limits<double>::quiet_NaN(), inf = std::numeric_limits<double>::infinity();
  EXPECT_THAT(taken({0.5, 0.5, 0.5, 0.5}, 1, {0, 0, 0, 0}, 1, 0.5), ElementsAre(0, 0, -1, -1));
  EXPECT_THAT(taken({0.0, -0.0, 0.0, 0.5}, 1, {0, 0, 0, 0}, 1, 0.5), ElementsAre(0, -1, -1, 0));
  EXPECT_THAT(taken({nan, -inf, nan, 1}, 1, {0, 0, 0, 0}, 1, 0.5), ElementsAre(-1, 0, -1, 0));
  EXPECT_THAT(taken({nan, -inf, nan, nan}, 1, {0, 0, 0, 0}, 1, 0.5), ElementsAre(0, 0, -1, -1));
}

// Against a sort of each expert's tokens.
TEST(ExpertChoice, AsBySorting) {
  constexpr std::int64_t T = 211, E = 7, K = 3;
  std::vector<std::int32_t> sequence(T);
  for (std::int64_t t = 0; t < T; ++t) sequence[static_cast<std::size_t>(t)] = t < 50 ? 0 : t < 51 ? 1 : 5;
  const Tensor random = testing::random_tensor(memory, {T, E}, 3);
  std::vector<double> scores(random.data<double>(), random.data<double>() + T * E);
  for (double& s : scores) s = std::round(8 * s) / 8;  // many tie
  for (const double factor : {0.4, 1.0, 1.7}) {
    std::vector<std::int32_t> expected(scores.size(), -1);
    for (const auto& [begin, end] : {std::pair{0, 50}, std::pair{50, 51}, std::pair{51, 211}})
      for (std::int64_t e = 0; e < E; ++e) {
        std::vector<std::int64_t> order(static_cast<std::size_t>(end - begin));
        std::iota(order.begin(), order.end(), begin);
        std::ranges::stable_sort(order, std::greater(),
                                 [&](std::int64_t t) { return scores[static_cast<std::size_t>(t * E + e)]; });
        const auto room = static_cast<std::size_t>(std::ceil(factor * static_cast<double>((end - begin) * K) / E));
        for (std::size_t i = 0; i < std::min(room, order.size()); ++i)
          expected[static_cast<std::size_t>(order[i] * E + e)] = static_cast<std::int32_t>(e);
      }
    EXPECT_EQ(taken(scores, E, sequence, K, factor), expected) << factor;
  }
}

TEST(ExpertChoice, UntakenTokensAreCounted) {
  const auto count = [](const std::vector<std::int32_t>& selection, std::int64_t tokens) {
    const auto columns = tokens == 0 ? 2 : std::ssize(selection) / tokens;
    return host_values<std::int64_t>(
        count_untaken(Tensor::from<std::int32_t>(memory, {tokens, columns}, selection)))[0];
  };
  EXPECT_EQ(count({-1, -1, 0, -1, -1, -1, -1, 1}, 4), 2);
  EXPECT_EQ(count({0, 1}, 1), 0);
  EXPECT_EQ(count({}, 0), 0);
}

TEST(ExpertChoice, BadInput) {
  EXPECT_THAT([] { taken({1, 2}, 2, {0}, 3, 1); }, ThrowsMessage<Error>(HasSubstr("3 experts a token, expected 1 to")));
  EXPECT_THAT([] { taken({1, 2}, 2, {0}, 1, 0); }, ThrowsMessage<Error>(HasSubstr("the factor is 0")));
  EXPECT_THAT(
      [] {
        choose_tokens(Tensor::zeros(memory, DType::F64, {2, 2}), Tensor::zeros(memory, DType::I32, {3}), 1, 1);
      },
      ThrowsMessage<Error>("expert choice: scores have shape [2,2] and sequence [3], expected [T,E] and [T]"));
}

TEST(Capacity, BadInput) {
  EXPECT_THAT([] { kept({0, 4}, 2, {0}, 4, 1); }, ThrowsMessage<Error>(HasSubstr("assignment 1 is to expert ")));
  EXPECT_THAT([] { kept({0, 1}, 2, {0}, 4, 0); }, ThrowsMessage<Error>(HasSubstr("the factor is 0")));
  EXPECT_THAT([] { kept({0, 1}, 1, {0}, 4, 1); }, ::testing::Throws<Error>());
}

}  // namespace
}  // namespace limbeck::core
