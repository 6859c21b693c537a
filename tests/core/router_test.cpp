#include "core/ops/router.h"

#include <gmock/gmock.h>

#include <cmath>
#include <limits>

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
  const Tensor far = tensor<std::int32_t>(memory, {2, 1}, {0, 3}), wide = Tensor::zeros(memory, DType::I32, {2, 2});
  EXPECT_THAT([&] { route(tape, z, 1, true, 1.0, &far); },
              ThrowsMessage<Error>("route: replay sends token 1 to expert 3, expected one in [0,3)"));
  EXPECT_THAT([&] { route(tape, z, 1, true, 1.0, &wide); },
              ThrowsMessage<Error>("route: replay is int32 [2,2], expected int32 [2,1]"));
}

}  // namespace
}  // namespace limbeck::core
