#include "core/ops/router.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <utility>
#include <vector>

#include "core/ops/capacity.h"
#include "tests/support/gradient_check.h"
#include "tests/support/tensors.h"

namespace limbeck::core {
namespace {

using testing::check_gradients;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::random_tensor;
using testing::tensor;
using ::testing::ThrowsMessage;

const auto memory = Memory::cpu(2);

TEST(Router, Values) {
  Tape tape;
  const double l3 = std::log(3.0), l4 = std::log(4.0);
  const Var z = constant(tensor<double>(memory, {2, 4}, {0, l3, 0, l4, 1, 1, 1, 1}));
  const Routing plain = route(tape, z, 2, false, 2.0);
  EXPECT_THAT(host_values<std::int32_t>(plain.selection), ElementsAre(3, 1, 0, 1)) << "ties go to the lower index";
  const std::vector<double> p{1 / 9., 3 / 9., 1 / 9., 4 / 9., .25, .25, .25, .25}, w{8 / 9., 6 / 9., .5, .5};
  for (int i = 0; i < 8; ++i) EXPECT_NEAR(plain.probabilities.value.data<double>()[i], p[i], 1e-14);
  for (int i = 0; i < 4; ++i) EXPECT_NEAR(plain.weights.value.data<double>()[i], w[i], 1e-14);
  const std::vector<double> renormalised{4 / 7., 3 / 7., .5, .5};
  const Routing one = route(tape, z, 2, true, 1.0);
  for (int i = 0; i < 4; ++i) EXPECT_NEAR(one.weights.value.data<double>()[i], renormalised[i], 1e-14);
}

TEST(Router, Gradients) {
  for (const bool renormalise : {false, true})
    for (const std::int64_t tokens : {0, 1, 5})
      for (const std::int64_t selected : {1, 3, 7})
        check_gradients(
            [&](Tape& tape, std::span<const Var> in) {
              const Routing r = route(tape, in[0], selected, renormalise, 1.7);
              return std::vector<Var>{r.weights, r.probabilities};
            },
            {random_tensor(memory, {tokens, 7}, 1)});
}

/// What DeepSeek-V3's paper says, section 2.1.2, over all experts and groups by sorting.
std::vector<std::int32_t> chosen_of(const std::vector<double>& scores, const std::vector<double>& bias,
                                    std::size_t groups, std::size_t taken, bool best_two, std::size_t count) {
  const std::size_t size = scores.size() / groups;
  std::vector<std::pair<double, std::size_t>> of_groups;  // by falling score, then rising number
  for (std::size_t g = 0; g < groups; ++g) {
    std::vector<double> own;
    for (std::size_t e = g * size; e < (g + 1) * size; ++e) own.push_back(scores[e] + bias[e]);
    std::ranges::sort(own, std::greater<>());
    of_groups.emplace_back(-(own[0] + (best_two ? own[1] : 0)), g);
  }
  std::ranges::sort(of_groups);
  std::vector<std::pair<double, std::int32_t>> experts;
  for (std::size_t i = 0; i < taken; ++i)
    for (std::size_t e = of_groups[i].second * size; e < (of_groups[i].second + 1) * size; ++e)
      experts.emplace_back(-(scores[e] + bias[e]), static_cast<std::int32_t>(e));
  std::ranges::sort(experts);
  std::vector<std::int32_t> chosen;
  for (std::size_t k = 0; k < count; ++k) chosen.push_back(experts[k].second);
  return chosen;
}

TEST(Router, ExpertsOfTheBestGroupsAreChosenByABias) {
  constexpr std::int64_t T = 40, E = 12, K = 4;
  const Tensor z = random_tensor(memory, {T, E}, 3);
  const Tensor bias = random_tensor(memory, {E}, 4);
  for (const bool is_sigmoid : {false, true})
    for (const bool best_two : {false, true}) {
      Tape tape;
      const RoutingRule rule{.is_sigmoid = is_sigmoid, .groups = {4, 2, best_two}, .bias = bias};
      const Routing r = route(tape, constant(z), K, true, 2.5, nullptr, rule);
      const std::vector<std::int32_t> selection = host_values<std::int32_t>(r.selection);
      for (std::int64_t t = 0; t < T; ++t) {
        std::vector<double> scores;
        double all = 0;
        for (std::int64_t e = 0; e < E; ++e) {
          const double x = z.data<double>()[t * E + e];
          scores.push_back(is_sigmoid ? 1 / (1 + std::exp(-x)) : std::exp(x));
          all += scores.back();
        }
        if (!is_sigmoid)
          for (double& s : scores) s /= all;
        const std::vector<double> biases(bias.data<double>(), bias.data<double>() + E);
        const std::vector<std::int32_t> chosen = chosen_of(scores, biases, 4, 2, best_two, K);
        double sum = 0;
        for (const std::int32_t e : chosen) sum += scores[static_cast<std::size_t>(e)];
        for (std::int64_t k = 0; k < K; ++k) {
          const auto e = static_cast<std::size_t>(chosen[static_cast<std::size_t>(k)]);
          ASSERT_EQ(selection[static_cast<std::size_t>(t * K + k)], chosen[static_cast<std::size_t>(k)]) << t;
          EXPECT_NEAR(r.weights.value.data<double>()[t * K + k], 2.5 * scores[e] / sum, 1e-14);
        }
        for (std::int64_t e = 0; e < E; ++e)
          EXPECT_NEAR(r.probabilities.value.data<double>()[t * E + e],
                      scores[static_cast<std::size_t>(e)] / (is_sigmoid ? all : 1), 1e-14);
      }
    }
}

TEST(Router, GroupsThatTieAreTakenByTheirNumber) {
  Tape tape;
  const Var z = constant(tensor<double>(memory, {1, 6}, {1, 2, 1, 2, 2, 1}));
  const Routing r = route(tape, z, 3, false, 1.0, nullptr, {.groups = {3, 2, false}});
  EXPECT_THAT(host_values<std::int32_t>(r.selection), ElementsAre(1, 3, 0));
}

TEST(Router, GradientsOfSigmoids) {
  const Tensor bias = random_tensor(memory, {8}, 5);
  for (const bool renormalise : {false, true})
    for (const std::int64_t tokens : {0, 1, 5})
      check_gradients(
          [&](Tape& tape, std::span<const Var> in) {
            const RoutingRule rule{.is_sigmoid = true, .groups = {4, 2, true}, .bias = bias};
            const Routing r = route(tape, in[0], 3, renormalise, 1.7, nullptr, rule);
            return std::vector<Var>{r.weights, r.probabilities};
          },
          {random_tensor(memory, {tokens, 8}, 1)});
}

TEST(Router, ReplayTakesTheSelection) {
  const Tensor replay = tensor<std::int32_t>(memory, {2, 2}, {4, 0, 2, 1});
  check_gradients(
      [&](Tape& tape, std::span<const Var> in) {
        const Routing r = route(tape, in[0], 2, true, 1.0, &replay);
        EXPECT_THAT(host_values<std::int32_t>(r.selection), ElementsAre(4, 0, 2, 1));
        return std::vector<Var>{r.weights, r.probabilities};
      },
      {random_tensor(memory, {2, 5}, 1)});
}

// Of three tokens the second has both experts, the third none.
TEST(Router, ExpertsChoose) {
  const auto choice = [](const Tensor& scores) {
    EXPECT_EQ(scores.shape(), Shape({3, 2}));
    return tensor<std::int32_t>(memory, {3, 2}, {0, -1, 0, 1, -1, -1});
  };
  Tape tape;
  const double l3 = std::log(3.0);
  const Var z = constant(tensor<double>(memory, {3, 2}, {l3, 0, 0, l3, 1, 1}));
  for (const bool renormalise : {false, true}) {
    const Routing r = route(tape, z, 1, renormalise, 2.0, nullptr, {.choice = choice});
    EXPECT_THAT(host_values<std::int32_t>(r.selection), ElementsAre(0, -1, 0, 1, -1, -1));
    const std::vector<double> weights{renormalise ? 2 : 1.5, 0, 0.5, 1.5, 0, 0};
    for (int i = 0; i < 6; ++i) EXPECT_NEAR(r.weights.value.data<double>()[i], weights[i], 1e-14) << i;
  }
  EXPECT_THAT(
      [&] {
        route(tape, z, 1, true, 1.0, nullptr, {.groups = {2, 1}, .choice = choice});
      },
      ThrowsMessage<Error>("route: tokens choose 1 of 2 groups of experts, expected all: experts choose"));
}

TEST(Router, GradientsWhereExpertsChoose) {
  constexpr std::int64_t E = 7;
  for (const bool is_sigmoid : {false, true})
    for (const bool renormalise : {false, true})
      for (const std::int64_t tokens : {0, 1, 5, 12})
        check_gradients(
            [&](Tape& tape, std::span<const Var> in) {
              const Tensor sequence = Tensor::zeros(memory, DType::I32, {tokens});
              const RoutingRule rule{.is_sigmoid = is_sigmoid,
                                     .choice = [&](const Tensor& s) { return choose_tokens(s, sequence, 2, 0.9); }};
              const Routing r = route(tape, in[0], 2, renormalise, 1.7, nullptr, rule);
              return std::vector<Var>{r.weights, r.probabilities};
            },
            {random_tensor(memory, {tokens, E}, 1)});
}

TEST(Router, NotFiniteLogitsGiveAValidSelection) {
  constexpr float nan = std::numeric_limits<float>::quiet_NaN(), inf = std::numeric_limits<float>::infinity();
  Tape tape;
  const Var z = constant(tensor<float>(memory, {3, 3}, {nan, nan, nan, 0, nan, 1, inf, 0, -inf}));
  const Routing r = route(tape, z, 2, true, 1.0);
  for (int t = 0; t < 3; ++t) {
    const auto* e = r.selection.data<std::int32_t>() + 2 * t;
    EXPECT_TRUE(e[0] >= 0 && e[0] < 3 && e[1] >= 0 && e[1] < 3 && e[0] != e[1]);
  }
}

// By hand, as transformers' sparsemixer: of 2, 1.99 is within a hundredth and 1 is not; of 1.99 then nobody is.
TEST(SparseMixer, Values) {
  Tape tape;
  const Var z = constant(tensor<double>(memory, {3, 4},
                                        {1, 2, 1.99, -5,         //
                                         -2, -1.01, -1, -1.005,  //
                                         0.5, 0.5, 0.5, 0.5}));
  const Routing r = route_sparse_mixer(tape, z, 0.005, 2.0);
  EXPECT_THAT(host_values<std::int32_t>(r.selection), ElementsAre(1, 2, 2, 3, 0, 1)) << "ties go to the lower index";
  const std::vector<double> weights{2 / (1 + std::exp(-0.01)),  2,      2 / (1 + std::exp(-0.01) + std::exp(-0.005)),
                                    2 / (1 + std::exp(-0.005)), 2 / 4., 2 / 3.};
  for (int i = 0; i < 6; ++i) EXPECT_NEAR(r.weights.value.data<double>()[i], weights[i], 1e-14) << i;
  const Routing plain = route(tape, z, 2, false, 1.0);
  for (int i = 0; i < 12; ++i)
    EXPECT_EQ(r.probabilities.value.data<double>()[i], plain.probabilities.value.data<double>()[i]);
}

TEST(SparseMixer, Gradients) {
  for (const std::int64_t tokens : {0, 1, 5})
    for (const std::int64_t experts : {2, 7})
      for (const double jitter : {0.01, 0.4})
        check_gradients(
            [&](Tape& tape, std::span<const Var> in) {
              const Routing r = route_sparse_mixer(tape, in[0], jitter, 1.7);
              return std::vector<Var>{r.weights, r.probabilities};
            },
            {random_tensor(memory, {tokens, experts}, 1)});
  const Tensor replay = tensor<std::int32_t>(memory, {2, 2}, {4, 0, 2, 1});
  check_gradients(
      [&](Tape& tape, std::span<const Var> in) {
        const Routing r = route_sparse_mixer(tape, in[0], 0.3, 1.0, &replay);
        EXPECT_THAT(host_values<std::int32_t>(r.selection), ElementsAre(4, 0, 2, 1));
        return std::vector<Var>{r.weights, r.probabilities};
      },
      {random_tensor(memory, {2, 5}, 1)});
}

TEST(SparseMixer, NotFiniteLogitsGiveAValidSelection) {
  constexpr float nan = std::numeric_limits<float>::quiet_NaN(), inf = std::numeric_limits<float>::infinity();
  Tape tape;
  const Var z = constant(tensor<float>(memory, {3, 3}, {nan, nan, nan, 0, nan, 1, inf, 0, -inf}));
  const Routing r = route_sparse_mixer(tape, z, 0.01, 1.0);
  for (int t = 0; t < 3; ++t) {
    const auto* e = r.selection.data<std::int32_t>() + 2 * t;
    EXPECT_TRUE(e[0] >= 0 && e[0] < 3 && e[1] >= 0 && e[1] < 3 && e[0] != e[1]);
  }
  EXPECT_THAT(
      [&] {
        route_sparse_mixer(tape, constant(Tensor::zeros(memory, DType::F32, {2, 1})), 0.01, 1.0);
      },
      ThrowsMessage<Error>(HasSubstr("expected [T,E] of two experts or more")));
}

TEST(Router, BadInput) {
  Tape tape;
  const Var z = constant(Tensor::zeros(memory, DType::F32, {2, 3}));
  EXPECT_THAT([&] { route(tape, z, 4, true, 1.0); }, ThrowsMessage<Error>("route: 4 experts a token, expected 1 to 3"));
  EXPECT_THAT([&] { route(tape, z, 0, true, 1.0); }, ThrowsMessage<Error>(HasSubstr("0 experts a token")));
  const auto with = [&](const RoutingRule& rule) { return [&, rule] { route(tape, z, 2, true, 1.0, nullptr, rule); }; };
  EXPECT_THAT(with({.groups = {2, 1}}), ThrowsMessage<Error>("route: 2 groups of 3 experts, expected a divisor"));
  EXPECT_THAT(with({.groups = {3, 1, true}}), ThrowsMessage<Error>(HasSubstr("that leaves two or more to each")));
  EXPECT_THAT(with({.groups = {3, 1}}), ThrowsMessage<Error>("route: 1 of 3 groups for 2 of 3 experts"));
  EXPECT_THAT(with({.bias = Tensor::zeros(memory, DType::F64, {3})}),
              ThrowsMessage<Error>("route: bias is float64 [3], expected float32 [3]"));
  const Tensor far = tensor<std::int32_t>(memory, {2, 1}, {0, 3}), wide = Tensor::zeros(memory, DType::I32, {2, 2});
  EXPECT_THAT([&] { route(tape, z, 1, true, 1.0, &far); },
              ThrowsMessage<Error>("route: replay sends token 1 to expert 3, expected one in [0,3)"));
  EXPECT_THAT([&] { route(tape, z, 1, true, 1.0, &wide); },
              ThrowsMessage<Error>("route: replay is int32 [2,2], expected int32 [2,1]"));
}

}  // namespace
}  // namespace limbeck::core
