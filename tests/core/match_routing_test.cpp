#include "core/ops/match_routing.h"

#include <gmock/gmock.h>

#include <cmath>

#include "core/ops/aux_losses.h"
#include "core/ops/router.h"
#include "tests/support/gradient_check.h"
#include "tests/support/tensors.h"

namespace limbeck::core {
namespace {

using testing::tensor;

TEST(MatchRouting, Values) {
  const auto memory = Memory::cpu(2);
  const Tensor q = tensor<float>(memory, {4, 2}, {0.5, 0.5, 0.25, 0.75, 0, 1, 0.5, 0.5});
  const Tensor p = tensor<float>(memory, {4, 2}, {0.5, 0.5, 0.5, 0.5, 0, 1, 1, 0});
  const Tensor targets = tensor<std::int32_t>(memory, {4}, {0, 3, 1, 2}),
               none = tensor<std::int32_t>(memory, {4}, {0, -1, 0, 0});
  const Tensor weights = tensor<double>(memory, {4}, {1, 2, 1, 0.5}), quarter = tensor<double>(memory, {1}, {0.25});
  Tape off(Tape::Mode::Off);
  const auto loss = [&](const Tensor& of, const Tensor& by, const MatchOptions& options) {
    return host_value(match_routing(off, constant(q), p, of, by, options).value);
  };
  const double second = 0.5 * std::log(2.) + 0.5 * std::log(2. / 3), last = std::log(2.);
  EXPECT_NEAR(loss(targets, {}, {}), second + last, 1e-6);
  EXPECT_NEAR(loss(targets, weights, {}), 2 * second + 0.5 * last, 1e-6);
  EXPECT_NEAR(loss(none, weights, {.weight = 2, .scale = quarter}), 0.25 * last, 1e-6);
}

// The student's routing is the teacher's where its logits are, and nothing pulls.
TEST(MatchRouting, OfEqualRoutingIsZero) {
  const auto memory = Memory::cpu(1);
  const Tensor targets = tensor<std::int32_t>(memory, {3}, {0, 0, 0});
  for (const bool is_sigmoid : {false, true}) {
    Tape tape;
    const Var z = leaf(testing::random_tensor(memory, {3, 5}, 1));
    const Routing routed = route(tape, z, 2, true, 1, nullptr, {.is_sigmoid = is_sigmoid});
    const Var loss = match_routing(tape, routed.probabilities, routed.probabilities.value, targets, {});
    EXPECT_EQ(host_value(loss.value), 0);
    tape.backward(loss);
    for (const double g : host_values<double>(z.slot->grad)) EXPECT_NEAR(g, 0, 1e-16);
  }
}

TEST(MatchRouting, GradientsEqualDifferences) {
  const auto memory = Memory::cpu(1);
  for (const auto& [rows, experts] : {std::pair{0, 3}, {1, 2}, {5, 7}}) {
    Tape off(Tape::Mode::Off);
    const Tensor p =
        route(off, constant(testing::random_tensor(memory, {rows, experts}, 2)), 1, false, 1).probabilities.value;
    const Tensor scale = tensor<double>(memory, {1}, {0.3});
    std::vector<std::int32_t> marks(static_cast<std::size_t>(rows), 4);
    std::vector<double> of_tokens(static_cast<std::size_t>(rows), 1);
    if (rows > 2) marks[1] = -1, of_tokens[2] = 2.5;
    const Tensor targets = Tensor::from<std::int32_t>(memory, {rows}, marks);
    const Tensor weights = Tensor::from<double>(memory, {rows}, of_tokens);
    for (const bool is_sigmoid : {false, true})
      testing::check_gradients(
          [&](Tape& tape, std::span<const Var> in) {
            const Var q = route(tape, in[0], 1, false, 1, nullptr, {.is_sigmoid = is_sigmoid}).probabilities;
            return match_routing(tape, q, p, targets, weights, {.weight = 1.7, .scale = scale});
          },
          {testing::random_tensor(memory, {rows, experts}, 1)});
  }
}

TEST(MatchRouting, SquaresAreThoseOfTheLogitsGradient) {
  const auto memory = Memory::cpu(1);
  const Tensor targets = tensor<std::int32_t>(memory, {4}, {0, -1, 2, 1}),
               weights = tensor<double>(memory, {4}, {1, 3, 0.5, 2}), scale = tensor<double>(memory, {1}, {0.3});
  Tape off(Tape::Mode::Off), tape;
  const Tensor p = route(off, constant(testing::random_tensor(memory, {4, 5}, 2)), 1, false, 1).probabilities.value;
  const Var z = leaf(testing::random_tensor(memory, {4, 5}, 1));
  const Tensor squares = tensor<double>(memory, {1}, {2});
  tape.backward(match_routing(tape, route(tape, z, 1, false, 1).probabilities, p, targets, weights,
                              {.weight = 1.7, .scale = scale, .squares = squares}));
  double expected = 2;
  for (const double g : host_values<double>(z.slot->grad)) expected += g * g;
  EXPECT_NEAR(host_value(squares), expected, 1e-14);
}

// An expert that the student all but never takes: the probability is below float32's normal numbers.
TEST(MatchRouting, ProbabilitiesThatVanishStayFinite) {
  const auto memory = Memory::cpu(1);
  Tape tape;
  const Var z = leaf(tensor<float>(memory, {1, 2}, {0, 200}));
  const Var q = route(tape, z, 1, false, 1).probabilities;
  const Var loss =
      match_routing(tape, q, tensor<float>(memory, {1, 2}, {0.5, 0.5}), tensor<std::int32_t>(memory, {1}, {0}), {});
  tape.backward(loss);
  EXPECT_TRUE(std::isfinite(host_value(loss.value)));
  for (const float g : host_values<float>(z.slot->grad)) EXPECT_TRUE(std::isfinite(g));
}

TEST(LoadWeights, EveryExpertOfASequenceCountsAlike) {
  const auto memory = Memory::cpu(1);
  // Two sequences: expert 0 has three of six assignments and 1, 2, 3 one each; then 0 and 1 two each.
  const Tensor selection = tensor<std::int32_t>(memory, {5, 2}, {0, 1, 0, 2, 3, 0, 1, 0, 0, 1});
  const Tensor sequence = tensor<std::int32_t>(memory, {5}, {0, 0, 0, 1, 1});
  const Tensor counts = sequence_counts(selection, sequence, 2, 6, DType::F64);
  const std::vector<double> found = host_values<double>(load_weights(selection, counts, sequence));
  const double each = 3. / 4 * (1. / 3 + 1);
  for (std::size_t t = 0; t < 3; ++t) EXPECT_NEAR(found[t], each, 1e-15) << t;
  for (std::size_t t = 3; t < 5; ++t) EXPECT_NEAR(found[t], 1, 1e-15) << t;
  EXPECT_EQ(load_weights(selection.rows(0, 0), counts, sequence.rows(0, 0)).numel(), 0);
}

TEST(MatchRouting, RefusesWhatDoesNotFit) {
  const auto memory = Memory::cpu(1);
  const Tensor q = testing::random_tensor(memory, {2, 3}, 1), targets = tensor<std::int32_t>(memory, {2}, {0, 0});
  Tape tape;
  EXPECT_THAT([&] { match_routing(tape, leaf(q), q.rows(0, 1), targets, {}); },
              ::testing::ThrowsMessage<Error>("match_routing: p is float64 [1,3], expected float64 [2,3]"));
  EXPECT_THAT([&] { match_routing(tape, leaf(q), q, targets.rows(0, 1), {}); },
              ::testing::ThrowsMessage<Error>("match_routing: targets are int32 [1], expected int32 [2] (q is [2,3])"));
  EXPECT_THAT([&] { match_routing(tape, leaf(q), q, targets, q); },
              ::testing::ThrowsMessage<Error>("match_routing: weights are not float64 [2] (q is [2,3])"));
}

}  // namespace
}  // namespace limbeck::core
