#include "core/ops/aux_losses.h"

#include <gmock/gmock.h>

#include <cmath>
#include <functional>

#include "core/ops/router.h"
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

/// Of whole sequences, whose numbers are below 3.
Var balance(Tape& tape, const Var& p, const Tensor& chosen, const Tensor& sequence, double weight,
            const Tensor& squares = {}) {
  const Tensor counts = sequence_counts(chosen, sequence, 3, p.shape()[1], p.value.dtype());
  return balance_loss(tape, p, counts, sequence, chosen.shape()[1], weight, squares);
}

using LossOfLogits = std::function<Var(Tape& tape, const Var& logits, const Tensor& squares)>;

/// What a loss of logits adds to squares is what the logits' gradient says; once, though the loss is taken again.
void expect_squares_of_gradient(const Tensor& logits, const LossOfLogits& loss) {
  Tape tape, replay(tape);
  const Var z = leaf(logits);
  const Tensor squares = tensor<double>(memory, {1}, {2});
  tape.backward(loss(tape, z, squares));
  loss(replay, z, squares);
  double expected = 0;
  for (const double g : host_values<double>(gradient(z.slot, z.value))) expected += g * g;
  EXPECT_NEAR(host_value(squares), 2 + expected, 1e-13);
  // Float32 as float64, from nothing.
  Tape off(Tape::Mode::Off);
  const Tensor of_float = tensor<double>(memory, {1}, {0});
  loss(off, constant(logits.to(DType::F32)), of_float);
  EXPECT_NEAR(host_value(of_float), expected, 1e-5 * expected);
}

TEST(BalanceLoss, Values) {
  Tape tape;
  // Sequence 0: shares (3/4, 1/4), means (0.6, 0.4). Sequence 2: one token, shares (0, 1), means (0.3, 0.7).
  const Var p = constant(tensor<double>(memory, {3, 2}, {.8, .2, .4, .6, .3, .7}));
  const Tensor chosen = tensor<std::int32_t>(memory, {3, 2}, {0, 0, 0, 1, 1, 1});
  const Tensor sequence = tensor<std::int32_t>(memory, {3}, {0, 0, 2});
  EXPECT_NEAR(host_value(balance(tape, p, chosen, sequence, 0.5).value), 0.5 * 2 * (.75 * .6 + .25 * .4 + .7), 1e-14);
}

// Two ranks have a token and two of one sequence: their losses by the counts of both are that of the whole.
TEST(BalanceLoss, OfACutSequenceIsThatOfTheWhole) {
  Tape tape;
  const Tensor p = random_tensor(memory, {3, 4}, 5), sequence = tensor<std::int32_t>(memory, {3}, {0, 0, 0});
  const Tensor chosen = tensor<std::int32_t>(memory, {3, 2}, {0, 3, 1, 3, 2, 3});
  const Tensor counts = sequence_counts(chosen, sequence, 1, 4, DType::F64);
  const auto part = [&](std::int64_t first, std::int64_t n) {
    return host_value(balance_loss(tape, constant(p.rows(first, n)), counts, sequence.rows(first, n), 2, 0.5).value);
  };
  EXPECT_NEAR(part(0, 1) + part(1, 2), host_value(balance(tape, constant(p), chosen, sequence, 0.5).value), 1e-15);
  EXPECT_EQ(host_values<double>(counts), (std::vector<double>{1, 1, 1, 3}));
}

// Even shares and even probabilities: the loss is the weight for each sequence, the least there is.
TEST(BalanceLoss, IsOneWhereBalanced) {
  Tape tape;
  const Var p = constant(tensor<double>(memory, {2, 2}, {.5, .5, .5, .5}));
  const Tensor chosen = tensor<std::int32_t>(memory, {2, 1}, {0, 1}), one = tensor<std::int32_t>(memory, {2}, {0, 0});
  EXPECT_NEAR(host_value(balance(tape, p, chosen, one, 1.0).value), 1, 1e-15);
}

TEST(BalanceLoss, Gradients) {
  const Tensor chosen = tensor<std::int32_t>(memory, {5, 2}, {0, 3, 3, 1, 0, 3, 3, 0, 4, 3});
  const Tensor sequence = tensor<std::int32_t>(memory, {5}, {0, 0, 0, 2, 2});
  for (const std::int64_t tokens : {0, 1, 5})
    check_gradients(
        [&](Tape& tape, std::span<const Var> in) {
          return balance(tape, in[0], chosen.rows(0, tokens), sequence.rows(0, tokens), 0.3);
        },
        {random_tensor(memory, {tokens, 6}, 1)});
}

TEST(BalanceLoss, SquaresAreThoseOfTheLogitsGradient) {
  const Tensor chosen = tensor<std::int32_t>(memory, {5, 2}, {0, 3, 3, 1, 0, 3, 3, 0, 4, 3});
  const Tensor sequence = tensor<std::int32_t>(memory, {5}, {0, 0, 0, 2, 2});
  const nn::Communicators alone = nn::single_communicators();
  for (const std::int64_t tokens : {0, 1, 5}) {
    const Tensor logits = random_tensor(memory, {tokens, 6}, 1), of = chosen.rows(0, tokens);
    expect_squares_of_gradient(logits, [&](Tape& tape, const Var& z, const Tensor& squares) {
      const Var p = route(tape, z, 2, false, 1).probabilities;
      return balance(tape, p, of, sequence.rows(0, tokens), 3, squares);
    });
    expect_squares_of_gradient(logits, [&](Tape& tape, const Var& z, const Tensor& squares) {
      return batch_balance_loss(tape, route(tape, z, 2, false, 1).probabilities, of, *alone.batch, 0.3, squares);
    });
  }
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
        sequence_counts(zeros({2, 1}), zeros({3}), 1, 2, DType::F32);
      },
      ThrowsMessage<Error>(HasSubstr("selection has shape [2,1] and sequence [3], expected [T,K] and [T]")));
  EXPECT_THAT(
      [&] {
        sequence_counts(tensor<std::int32_t>(memory, {3, 1}, {0, 2, 0}), zeros({3}), 1, 2, DType::F32);
      },
      ThrowsMessage<Error>(HasSubstr("assignment 1 is to expert 2, expected one in [0,2)")));
  const Tensor counts = Tensor::zeros(memory, DType::F32, {1, 2});
  EXPECT_THAT([&] { balance_loss(tape, p, counts, zeros({2}), 1, 1); },
              ThrowsMessage<Error>(HasSubstr("sequence has shape [2], expected [T] (probabilities are [3,2]")));
  EXPECT_THAT([&] { balance_loss(tape, p, counts.to(DType::F64), zeros({3}), 1, 1); },
              ThrowsMessage<Error>(HasSubstr("counts are float64 [1,2], expected float32 [S,2]")));
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

TEST(ZLoss, SquaresAreThoseOfTheGradient) {
  for (const Shape& shape : {Shape{0, 3}, Shape{1, 1}, Shape{5, 7}})
    expect_squares_of_gradient(random_tensor(memory, shape, 1), [](Tape& tape, const Var& z, const Tensor& squares) {
      return z_loss(tape, z, 0.3, squares);
    });
}

}  // namespace
}  // namespace limbeck::core
