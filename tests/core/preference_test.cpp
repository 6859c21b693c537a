#include "core/ops/preference.h"

#include <gmock/gmock.h>

#include <array>
#include <cmath>

#include "kernels/distillation.h"
#include "tests/support/tensors.h"

namespace limbeck::core {
namespace {

using ::testing::ThrowsMessage;

const auto memory = Memory::cpu(2);
constexpr std::int64_t columns = kernels::num_preference_columns;

/// Three pairs of 4, 5 and 4 tokens: document 0 is the chosen response, 1 the rejected one, 2 fills up.
const std::vector<std::int32_t> documents = {0, 0, 1, 2, 0, 1, 1, 1, 1, 0, 1, 2, 2};
const std::vector<std::int64_t> offsets = {0, 4, 9, 13};

/// Losses of model and reference of each token; the first tokens of documents have no target.
std::vector<double> losses() {
  std::vector<double> each(documents.size() * kernels::num_loss_columns);
  const std::vector<double> ce = {0, 1.5, 0, 0, 2, 0, 0.1, 4, 0.3, 3, 900, 0, 0},
                            reference_ce = {0, 2.5, 0, 0, 1, 0, 0.4, 1, 0.1, 2, 100, 0, 0};
  for (std::size_t t = 0; t < ce.size(); ++t) {
    each[t * kernels::num_loss_columns + kernels::LossCe] = ce[t];
    each[t * kernels::num_loss_columns + kernels::LossTeacherCe] = reference_ce[t];
  }
  return each;
}

struct Found {
  std::vector<double> weights, totals;
};

Found find(const std::vector<double>& each, double beta, std::vector<double> totals = std::vector<double>(columns)) {
  const auto tokens = std::ssize(documents);
  Tensor sums = Tensor::from<double>(memory, {columns}, totals);
  const Tensor weights =
      preference_weights(Tensor::from<double>(memory, {tokens, kernels::num_loss_columns}, each),
                         Tensor::from<std::int32_t>(memory, {tokens}, documents),
                         Tensor::from<std::int64_t>(memory, {std::ssize(offsets)}, offsets), beta, sums);
  return {host_values<double>(weights), host_values<double>(sums)};
}

/// The paper's formula, pair by pair.
TEST(PreferenceWeights, FiguresAreTheFormulas) {
  const double beta = 0.4;
  const std::array<double, 3> chosen = {beta * 1, beta * -1, beta * -1},
                              rejected = {0, beta * (0.3 - 3 - 0.2), beta * -800};
  std::vector<double> expected = {10, 20, 30, 40, 50, 60};
  const Found found = find(losses(), beta, expected);
  for (std::size_t i = 0; i < 3; ++i) {
    const double margin = chosen[i] - rejected[i];
    expected[kernels::PreferencePairs] += 1;
    expected[kernels::PreferenceLoss] += std::log1p(std::exp(-margin));
    expected[kernels::PreferenceRight] += margin > 0 ? 1 : 0;
    expected[kernels::PreferenceMargin] += margin;
    expected[kernels::PreferenceChosen] += chosen[i];
    expected[kernels::PreferenceRejected] += rejected[i];
  }
  for (std::size_t c = 0; c < expected.size(); ++c) EXPECT_NEAR(found.totals[c], expected[c], 1e-12) << "column " << c;
}

/// What a token weighs is what the pairs' loss gains by its cross-entropy.
TEST(PreferenceWeights, AreTheLossesDerivative) {
  for (const double beta : {0.1, 2.0}) {
    const std::vector<double> each = losses();
    const Found found = find(each, beta);
    for (std::size_t t = 0; t < documents.size(); ++t) {
      constexpr double step = 1e-5;
      std::array<double, 2> loss{};
      for (const int side : {0, 1}) {
        std::vector<double> moved = each;
        moved[t * kernels::num_loss_columns + kernels::LossCe] += side == 0 ? -step : step;
        loss.at(static_cast<std::size_t>(side)) = find(moved, beta).totals[kernels::PreferenceLoss];
      }
      EXPECT_NEAR(found.weights[t], (loss[1] - loss[0]) / (2 * step), 2e-7) << "token " << t << ", beta " << beta;
    }
  }
}

/// Rewards thousands apart neither overflow nor lose the gradient of a pair that is wrong.
TEST(PreferenceWeights, OfRewardsFarApartAreFinite) {
  std::vector<double> each = losses();
  each[1 * kernels::num_loss_columns + kernels::LossCe] = 1e4;
  const Found found = find(each, 2);
  EXPECT_NEAR(found.weights[0], 2, 1e-12);
  EXPECT_NEAR(found.weights[2], -2, 1e-12);
  EXPECT_EQ(found.weights[3], 0);
  EXPECT_LT(std::abs(found.weights[9]), 1e-300);  // a pair that is right by as much
  EXPECT_NEAR(found.totals[kernels::PreferenceLoss],
              2 * (1e4 - 2.5) + std::log1p(std::exp(2 * -(-1 - (0.3 - 3 - 0.2)))), 1e-8);
}

TEST(PreferenceWeights, OfNoPairAddNothing) {
  Tensor totals = Tensor::zeros(memory, DType::F64, {columns});
  const Tensor weights =
      preference_weights(Tensor::zeros(memory, DType::F64, {0, kernels::num_loss_columns}),
                         Tensor::zeros(memory, DType::I32, {0}), Tensor::zeros(memory, DType::I64, {1}), 0.1, totals);
  EXPECT_EQ(weights.numel(), 0);
  EXPECT_EQ(host_values<double>(totals), std::vector<double>(columns));
}

TEST(PreferenceWeights, BadInput) {
  Tensor totals = Tensor::zeros(memory, DType::F64, {columns});
  const Tensor each = Tensor::zeros(memory, DType::F64, {2, kernels::num_loss_columns}),
               document = Tensor::zeros(memory, DType::I32, {2}), ends = Tensor::zeros(memory, DType::I64, {2});
  EXPECT_THAT(
      [&] { preference_weights(each, Tensor::zeros(memory, DType::I32, {3}), ends, 0.1, totals); },
      ThrowsMessage<Error>("preference_weights: each is float64 [2,6], expected float64 [3,6] (document is [3])"));
  EXPECT_THAT(
      [&] { preference_weights(each, document, document, 0.1, totals); },
      ThrowsMessage<Error>(
          "preference_weights: document is int32, sequence_offsets are int32 [2], expected int32 and int64 [N+1]"));
  EXPECT_THAT([&] { preference_weights(each, document, ends, 0.1, totals = Tensor::zeros(memory, DType::F64, {2})); },
              ThrowsMessage<Error>("preference_weights: totals are float64 [2], expected float64 [6]"));
  totals = Tensor::zeros(memory, DType::F64, {columns});
  EXPECT_THAT([&] { preference_weights(each, document, ends, 0, totals); },
              ThrowsMessage<Error>("preference_weights: beta is 0, expected a number above 0"));
}

}  // namespace
}  // namespace limbeck::core
