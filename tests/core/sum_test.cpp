#include "core/ops/sum.h"

#include <gmock/gmock.h>

#include "core/ops/add.h"
#include "tests/core/golden_ops.h"
#include "tests/support/tensors.h"

namespace limbeck::core {
namespace {

using testing::check_gradients;
using ::testing::Each;
using testing::random_tensor;
using testing::tensor;
using ::testing::ThrowsMessage;

const auto memory = Memory::cpu(2);

TEST(Sum, Golden) {
  testing::expect_golden(memory, "sum", nullptr, [](Tape& tape, const Var& x) { return sum(tape, x); });
  testing::expect_golden(memory, "mean", nullptr, [](Tape& tape, const Var& x) { return mean(tape, x); });
}

TEST(Sum, GradientIsTheSameForAllElements) {
  for (const bool is_mean : {false, true}) {
    Tape tape;
    const Var x = leaf(random_tensor(memory, {3, 5}, 1));
    tape.backward(scale(tape, is_mean ? mean(tape, x) : sum(tape, x), 6));
    EXPECT_THAT(host_values<double>(x.slot->grad), Each(is_mean ? 6.0 / 15 : 6.0));
  }
}

TEST(Sum, Gradients) {
  for (const Shape& shape : {Shape{}, Shape{0, 5}, Shape{1, 1}, Shape{5, 13}, Shape{2, 3, 4}}) {
    check_gradients([](Tape& tape, std::span<const Var> in) { return sum(tape, in[0]); },
                    {random_tensor(memory, shape, 1)});
    check_gradients([](Tape& tape, std::span<const Var> in) { return mean(tape, in[0], 7); },
                    {random_tensor(memory, shape, 1)});
  }
  check_gradients([](Tape& tape, std::span<const Var> in) { return mean(tape, in[0]); },
                  {random_tensor(memory, {5, 13}, 1)});
}

// 2^24 + 1 has no float32.
TEST(Sum, AddsInDouble) {
  Tape tape;
  const Tensor x = tensor<float>(memory, {4}, {16777216, 1, 1, -16777216});
  EXPECT_EQ(host_value(sum(tape, constant(x)).value), 2);
}

TEST(Sum, PartsOfRanksAddUpToTheMeanOfAll) {
  Tape tape;
  const Tensor x = random_tensor(memory, {7, 3}, 1);
  double parts = 0;
  for (const auto& [first, count] : {std::pair{0, 4}, {4, 0}, {4, 3}})
    parts += host_value(mean(tape, constant(x.rows(first, count)), 21).value);
  EXPECT_NEAR(parts, host_value(mean(tape, constant(x)).value), 1e-15);
}

TEST(Sum, BadInput) {
  Tape tape;
  EXPECT_THAT(
      [&] {
        mean(tape, constant(Tensor::zeros(memory, DType::F32, {0, 3})));
      },
      ThrowsMessage<Error>("mean: the mean is over 0 elements, expected one or more"));
  EXPECT_THAT([&] { sum(tape, constant(Tensor::zeros(memory, DType::I32, {2}))); },
              ThrowsMessage<Error>("sum: dtype is int32, expected float32, float64 or bfloat16"));
}

}  // namespace
}  // namespace limbeck::core
