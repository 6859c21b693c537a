#include "core/ops/aux_losses.h"

#include <gmock/gmock.h>

#include <cmath>

#include "tests/support/gradient_check.h"
#include "tests/support/tensors.h"

namespace limbeck::core {
namespace {

using testing::check_gradients;
using ::testing::HasSubstr;
using testing::random_tensor;
using testing::tensor;
using ::testing::ThrowsMessage;

const auto memory = Memory::cpu(2);

TEST(BalanceLoss, Values) {
  Tape tape;
  // Sequence 4: shares (3/4, 1/4), means (0.6, 0.4). Sequence 9: one token, shares (0, 1), means (0.3, 0.7).
  const Var p = constant(tensor<double>(memory, {3, 2}, {.8, .2, .4, .6, .3, .7}));
  const Tensor chosen = tensor<std::int32_t>(memory, {3, 2}, {0, 0, 0, 1, 1, 1});
  const Tensor sequence = tensor<std::int32_t>(memory, {3}, {4, 4, 9});
  EXPECT_NEAR(host_value(balance_loss(tape, p, chosen, sequence, 0.5).value), 0.5 * 2 * (.75 * .6 + .25 * .4 + .7),
              1e-14);
}

// Even shares and even probabilities: the loss is the weight for each sequence, the least there is.
TEST(BalanceLoss, IsOneWhereBalanced) {
  Tape tape;
  const Var p = constant(tensor<double>(memory, {2, 2}, {.5, .5, .5, .5}));
  const Tensor chosen = tensor<std::int32_t>(memory, {2, 1}, {0, 1}), one = tensor<std::int32_t>(memory, {2}, {0, 0});
  EXPECT_NEAR(host_value(balance_loss(tape, p, chosen, one, 1.0).value), 1, 1e-15);
}

TEST(BalanceLoss, Gradients) {
  const Tensor chosen = tensor<std::int32_t>(memory, {5, 2}, {0, 3, 3, 1, 0, 3, 3, 0, 4, 3});
  const Tensor sequence = tensor<std::int32_t>(memory, {5}, {0, 0, 0, 2, 2});
  for (const std::int64_t tokens : {0, 1, 5})
    check_gradients(
        [&](Tape& tape, std::span<const Var> in) {
          return balance_loss(tape, in[0], chosen.rows(0, tokens), sequence.rows(0, tokens), 0.3);
        },
        {random_tensor(memory, {tokens, 6}, 1)});
}

// As BalanceLoss.Values with all three tokens as one: shares (1/2, 1/2), sums of probabilities (1.5, 1.5).
TEST(BatchBalanceLoss, ValuesAndGradients) {
  Tape tape;
  const nn::Communicators alone = nn::single_communicators();
  const Var p = constant(tensor<double>(memory, {3, 2}, {.8, .2, .4, .6, .3, .7}));
  const Tensor chosen = tensor<std::int32_t>(memory, {3, 2}, {0, 0, 0, 1, 1, 1});
  EXPECT_NEAR(host_value(batch_balance_loss(tape, p, chosen, *alone.batch, 0.1).value), 0.1 * 2 * (.5 * 1.5 + .5 * 1.5),
              1e-14);
  const Tensor uneven = tensor<std::int32_t>(memory, {3, 1}, {1, 1, 0});
  for (const std::int64_t tokens : {0, 1, 3})
    check_gradients(
        [&](Tape& t, std::span<const Var> in) {
          return batch_balance_loss(t, in[0], uneven.rows(0, tokens), *alone.batch, 0.3);
        },
        {random_tensor(memory, {tokens, 4}, 1)});
}

TEST(BalanceLoss, BadInput) {
  Tape tape;
  const Var p = constant(Tensor::zeros(memory, DType::F32, {3, 2}));
  const auto zeros = [](const Shape& shape) { return Tensor::zeros(memory, DType::I32, shape); };
  EXPECT_THAT(
      [&] {
        balance_loss(tape, p, zeros({2, 1}), zeros({3}), 1);
      },
      ThrowsMessage<Error>(HasSubstr("selection has shape [2,1], expected [3,K]")));
  EXPECT_THAT(
      [&] {
        balance_loss(tape, p, zeros({3, 1}), zeros({2}), 1);
      },
      ThrowsMessage<Error>(HasSubstr("sequence has shape [2], expected [3]")));
  EXPECT_THAT(
      [&] {
        balance_loss(tape, p, tensor<std::int32_t>(memory, {3, 1}, {0, 2, 0}), zeros({3}), 1);
      },
      ThrowsMessage<Error>(HasSubstr("assignment 1 is to expert ")));
}

TEST(ZLoss, Values) {
  Tape tape;
  const double a = std::log(2.0), b = 1000 + std::log(3.0);
  const Var z = constant(tensor<double>(memory, {2, 3}, {0, 0, -1e30, 1000, 1000, 1000}));
  EXPECT_NEAR(host_value(z_loss(tape, z, 0.5).value), 0.5 * (a * a + b * b), 1e-8);
}

TEST(ZLoss, Gradients) {
  for (const Shape& shape : {Shape{0, 3}, Shape{1, 1}, Shape{5, 7}})
    check_gradients([](Tape& tape, std::span<const Var> in) { return z_loss(tape, in[0], 0.3); },
                    {random_tensor(memory, shape, 1)});
}

}  // namespace
}  // namespace limbeck::core
