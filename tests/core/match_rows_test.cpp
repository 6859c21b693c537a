#include "core/ops/match_rows.h"

#include <gmock/gmock.h>

#include <cmath>

#include "tests/support/gradient_check.h"
#include "tests/support/tensors.h"

namespace limbeck::core {
namespace {

using kernels::RowDistance;
using testing::tensor;

constexpr auto both = {RowDistance::SquaredError, RowDistance::Cosine};

TEST(MatchRows, Values) {
  const auto memory = Memory::cpu(2);
  const Tensor x = tensor<float>(memory, {5, 2}, {1, 0, 1, 0, 1, 0, 0, 0, 7, 8});
  const Tensor y = tensor<float>(memory, {5, 2}, {5, 0, 0, 3, -1, 1, 1, 1, 1, 1});
  const Tensor targets = tensor<std::int32_t>(memory, {5}, {0, 3, 0, 2, -1});
  const Tensor quarter = tensor<double>(memory, {1}, {0.25});
  Tape off(Tape::Mode::Off);
  const auto loss = [&](RowDistance kind, const MatchOptions& options) {
    return host_value(match_rows(off, constant(x), y, targets, kind, options).value);
  };
  EXPECT_NEAR(loss(RowDistance::Cosine, {}), 0 + 1 + (1 + std::sqrt(0.5)) + 1, 1e-6);
  EXPECT_NEAR(loss(RowDistance::SquaredError, {}), (16 + 0) / 2. + (1 + 9) / 2. + (4 + 1) / 2. + (1 + 1) / 2., 1e-6);
  EXPECT_NEAR(loss(RowDistance::SquaredError, {.weight = 2, .scale = quarter}), 16.5 / 2, 1e-6);
  EXPECT_EQ(
      host_value(match_rows(off, constant(x.rows(0, 0)), y.rows(0, 0), targets.rows(0, 0), RowDistance::Cosine).value),
      0);
}

TEST(MatchRows, GradientsEqualDifferences) {
  const auto memory = Memory::cpu(1);
  for (const auto& [rows, width] : {std::pair{0, 3}, {1, 1}, {5, 7}}) {
    const Tensor y = testing::random_tensor(memory, {rows, width}, 2), scale = tensor<double>(memory, {1}, {0.3});
    std::vector<std::int32_t> marks(static_cast<std::size_t>(rows), 4);
    if (rows > 2) marks[1] = -1;
    const Tensor targets = Tensor::from<std::int32_t>(memory, {rows}, marks);
    for (const RowDistance kind : both)
      testing::check_gradients(
          [&](Tape& tape, std::span<const Var> in) {
            return match_rows(tape, in[0], y, targets, kind, {.weight = 1.7, .scale = scale});
          },
          {testing::random_tensor(memory, {rows, width}, 1)});
  }
}

TEST(MatchRows, SquaresAreThoseOfTheGradient) {
  const auto memory = Memory::cpu(1);
  const Tensor x = testing::random_tensor(memory, {5, 7}, 1), y = testing::random_tensor(memory, {5, 7}, 2);
  const Tensor targets = tensor<std::int32_t>(memory, {5}, {4, -1, 4, 0, 1}),
               scale = tensor<double>(memory, {1}, {0.3});
  for (const RowDistance kind : both) {
    Tape tape;
    const Var in = leaf(x);
    const Tensor squares = tensor<double>(memory, {1}, {2});
    tape.backward(match_rows(tape, in, y, targets, kind, {.weight = 1.7, .scale = scale, .squares = squares}));
    double expected = 2;
    for (const double g : host_values<double>(in.slot->grad)) expected += g * g;
    EXPECT_NEAR(host_value(squares), expected, 1e-14);
  }
}

TEST(MatchRows, RowsThatAreEqualOrZeroPullNowhere) {
  const auto memory = Memory::cpu(1);
  const Tensor x = tensor<double>(memory, {2, 2}, {3, -4, 0, 0});
  const Tensor targets = tensor<std::int32_t>(memory, {2}, {0, 0});
  for (const RowDistance kind : both) {
    Tape tape;
    const Var in = leaf(x);
    tape.backward(match_rows(tape, in, x, targets, kind));
    for (const double g : host_values<double>(in.slot->grad)) EXPECT_NEAR(g, 0, 1e-16);
  }
}

TEST(MatchRows, Bfloat16IsThatOfFloatRoundedOnce) {
  const auto memory = Memory::cpu(1);
  const Tensor x = testing::random_tensor(memory, {6, 40}, 1).to(DType::F32).to(DType::BF16);
  const Tensor y = testing::random_tensor(memory, {6, 40}, 2).to(DType::F32);
  const Tensor targets = tensor<std::int32_t>(memory, {6}, {1, 1, -1, 1, 1, 1});
  for (const RowDistance kind : both) {
    const auto run = [&](const Tensor& of) {
      Tape tape;
      const Var in = leaf(of);
      const Var loss = match_rows(tape, in, y, targets, kind);
      tape.backward(loss);
      return std::pair{loss.value, in.slot->grad};
    };
    const auto [loss, gradient] = run(x);
    const auto [wide_loss, wide_gradient] = run(x.to(DType::F32));
    EXPECT_EQ(host_value(loss), host_value(wide_loss));
    EXPECT_EQ(host_values<float>(gradient.to(DType::F32)),
              host_values<float>(wide_gradient.to(DType::BF16).to(DType::F32)));
  }
}

TEST(MatchRows, RefusesWhatDoesNotFit) {
  const auto memory = Memory::cpu(1);
  const Tensor x = testing::random_tensor(memory, {2, 3}, 1), targets = tensor<std::int32_t>(memory, {2}, {0, 0});
  Tape tape;
  EXPECT_THAT([&] { match_rows(tape, leaf(x), x.rows(0, 1), targets, RowDistance::Cosine); },
              ::testing::ThrowsMessage<Error>("match_rows: y is float64 [1,3], expected float64 [2,3] (x is float64)"));
  EXPECT_THAT([&] { match_rows(tape, leaf(x), x, targets.rows(0, 1), RowDistance::Cosine); },
              ::testing::ThrowsMessage<Error>("match_rows: targets are int32 [1], expected int32 [2] (x is [2,3])"));
}

}  // namespace
}  // namespace limbeck::core
