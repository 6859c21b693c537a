#include "core/ops/reward.h"

#include <gmock/gmock.h>

#include <array>
#include <cmath>

#include "tests/support/gradient_check.h"
#include "tests/support/tensors.h"

namespace limbeck::core {
namespace {

using testing::check_gradients;
using testing::random_tensor;
using ::testing::ThrowsMessage;

const auto memory = Memory::cpu(2);
constexpr std::int64_t columns = kernels::num_preference_columns;

Tensor documents(const std::vector<std::int32_t>& of) {
  return Tensor::from<std::int32_t>(memory, {std::ssize(of)}, of);
}
Tensor offsets(const std::vector<std::int64_t>& of) { return Tensor::from<std::int64_t>(memory, {std::ssize(of)}, of); }
Tensor number(double value) { return Tensor::from<double>(memory, {1}, {&value, 1}); }

/// Three pairs of 4, 5 and 3 tokens: document 0 is the chosen response, 1 the rejected one, 2 fills up. Their last
/// tokens are rows 1 and 2, 4 and 8, 9 and 10.
const std::vector<std::int32_t> of_tokens = {0, 0, 1, 2, 0, 1, 1, 1, 1, 0, 1, 2};
const std::vector<std::int64_t> begins = {0, 4, 9, 12};
constexpr std::array<std::array<std::int64_t, 2>, 3> last = {{{1, 2}, {4, 8}, {9, 10}}};

Var loss_of(Tape& tape, const Var& hidden, const Var& weight, double center, double scale, Tensor& totals) {
  return reward_loss(tape, hidden, weight, documents(of_tokens), offsets(begins),
                     {.center = center, .scale = number(scale)}, totals);
}

TEST(RewardLoss, GradientsAreThoseOfDifferences) {
  for (const double center : {0.0, 0.3})
    check_gradients(
        [&](Tape& tape, std::span<const Var> in) {
          Tensor totals = Tensor::zeros(memory, DType::F64, {columns});
          return loss_of(tape, in[0], in[1], center, 0.4, totals);
        },
        {random_tensor(memory, {12, 5}, 1), random_tensor(memory, {1, 5}, 2)});
}

TEST(RewardLoss, FiguresAreTheFormulas) {
  constexpr double center = 0.2, scale = 0.25;
  const Tensor hidden = random_tensor(memory, {12, 5}, 3), weight = random_tensor(memory, {1, 5}, 4);
  const std::vector<double> h = host_values<double>(hidden), w = host_values<double>(weight);
  const auto reward = [&](std::int64_t row) {
    double sum = 0;
    for (std::int64_t c = 0; c < 5; ++c)
      sum += h[static_cast<std::size_t>(row * 5 + c)] * w[static_cast<std::size_t>(c)];
    return sum;
  };
  std::vector<double> expected = {10, 20, 30, 40, 50, 60};
  Tensor totals = Tensor::from<double>(memory, {columns}, expected);
  Tape off(Tape::Mode::Off);
  const Var loss = loss_of(off, {hidden, nullptr}, {weight, nullptr}, center, scale, totals);
  const std::vector<double> rewards =
      host_values<double>(pair_rewards(hidden, weight, documents(of_tokens), offsets(begins)));
  double sum = 0;
  for (std::size_t i = 0; i < last.size(); ++i) {
    const double chosen = reward(last.at(i)[0]), rejected = reward(last.at(i)[1]), margin = chosen - rejected;
    EXPECT_NEAR(rewards[2 * i], chosen, 1e-14);
    EXPECT_NEAR(rewards[2 * i + 1], rejected, 1e-14);
    const double of_pair = std::log1p(std::exp(-margin)) + center * (chosen + rejected) * (chosen + rejected);
    sum += of_pair;
    expected[kernels::PreferencePairs] += 1;
    expected[kernels::PreferenceLoss] += of_pair;
    expected[kernels::PreferenceRight] += margin > 0 ? 1 : 0;
    expected[kernels::PreferenceMargin] += margin;
    expected[kernels::PreferenceChosen] += chosen;
    expected[kernels::PreferenceRejected] += rejected;
  }
  EXPECT_NEAR(host_values<double>(loss.value)[0], scale * sum, 1e-14);
  const std::vector<double> found = host_values<double>(totals);
  for (std::size_t c = 0; c < expected.size(); ++c) EXPECT_NEAR(found[c], expected[c], 1e-13) << "column " << c;
}

/// Of bfloat16 hidden states, beside weights of float32 or bfloat16, the same to their rounding.
TEST(RewardLoss, OfBfloat16IsThatOfFloat64) {
  const Tensor hidden = random_tensor(memory, {12, 40}, 5).to(DType::F32).to(DType::BF16),
               weight = random_tensor(memory, {1, 40}, 6).to(DType::F32).to(DType::BF16);
  const auto rewards = [&](DType of_hidden, DType of_weight) {
    const auto as = [](const Tensor& t, DType dtype) {
      const Tensor wide = t.to(DType::F32);
      return dtype == DType::BF16 ? t : dtype == DType::F32 ? wide : wide.to(DType::F64);
    };
    return host_values<double>(
        pair_rewards(as(hidden, of_hidden), as(weight, of_weight), documents(of_tokens), offsets(begins)));
  };
  const std::vector<double> exact = rewards(DType::F64, DType::F64);
  for (const auto& [of_hidden, of_weight] : {std::pair(DType::BF16, DType::F32), std::pair(DType::BF16, DType::BF16),
                                             std::pair(DType::F32, DType::F32), std::pair(DType::F32, DType::BF16)})
    EXPECT_THAT(rewards(of_hidden, of_weight), ::testing::Pointwise(::testing::DoubleNear(1e-13), exact));
}

/// A sequence of one response alone: the other's reward is 0, and nothing is written outside.
TEST(RewardLoss, OfNoPairAndOfHalfOnes) {
  Tensor totals = Tensor::zeros(memory, DType::F64, {columns});
  Tape tape;
  const Var none = reward_loss(tape, {Tensor::zeros(memory, DType::F64, {0, 3}), nullptr},
                               {Tensor::zeros(memory, DType::F64, {1, 3}), nullptr}, documents({}), offsets({0}),
                               {.scale = number(1)}, totals);
  EXPECT_EQ(host_values<double>(none.value), std::vector<double>{0});
  EXPECT_EQ(host_values<double>(totals), std::vector<double>(columns));
  check_gradients(
      [&](Tape& on, std::span<const Var> in) {
        return reward_loss(on, in[0], in[1], documents({0, 0, 1, 1, 2}), offsets({0, 2, 4, 4, 5}),
                           {.center = 0.1, .scale = number(1)}, totals);
      },
      {random_tensor(memory, {5, 2}, 7), random_tensor(memory, {1, 2}, 8)});
}

TEST(RewardLoss, BadInput) {
  Tape tape;
  Tensor totals = Tensor::zeros(memory, DType::F64, {columns});
  const Var hidden{Tensor::zeros(memory, DType::F64, {12, 5}), nullptr},
      weight{Tensor::zeros(memory, DType::F64, {1, 5}), nullptr};
  EXPECT_THAT(
      [&] {
        reward_loss(tape, hidden, {Tensor::zeros(memory, DType::F64, {5}), nullptr}, documents(of_tokens),
                    offsets(begins), {.scale = number(1)}, totals);
      },
      ThrowsMessage<Error>("reward: weight has shape [5], expected [1,5] (hidden is [12,5])"));
  EXPECT_THAT(
      [&] {
        reward_loss(tape, hidden, weight, documents({0, 1}), offsets(begins), {.scale = number(1)}, totals);
      },
      ThrowsMessage<Error>(
          "reward: document is int32 [2], sequence_offsets are int64 [4], expected int32 [12] and int64 [N+1]"));
  EXPECT_THAT([&] { reward_loss(tape, hidden, weight, documents(of_tokens), offsets(begins), {}, totals); },
              ThrowsMessage<Error>("reward: there is no scale, expected float64 [1]"));
}

}  // namespace
}  // namespace limbeck::core
