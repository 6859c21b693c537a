#include "core/ops/softmax.h"

#include <gmock/gmock.h>

#include <limits>
#include <numeric>

#include "tests/core/golden_ops.h"
#include "tests/support/tensors.h"

namespace limbeck::core {
namespace {

using testing::bit_identical;
using testing::check_gradients;
using ::testing::ElementsAre;
using testing::random_tensor;
using testing::tensor;
using ::testing::ThrowsMessage;

const auto memory = Memory::cpu(2);

TEST(Softmax, Golden) {
  testing::expect_golden(
      memory, "softmax", "softmax_dx", [](Tape& tape, const Var& x) { return softmax(tape, x); }, "upstream");
}

TEST(Softmax, IsOverTheLastDimension) {
  Tape tape;
  const Tensor x = random_tensor(memory, {2, 3, 5}, 1);
  const Tensor y = softmax(tape, constant(x)).value;
  EXPECT_EQ(y.shape(), (Shape{2, 3, 5}));
  EXPECT_TRUE(bit_identical(y.reshape({6, 5}), softmax(tape, constant(x.reshape({6, 5}))).value));
  const auto p = host_values<double>(y);
  for (int row = 0; row < 6; ++row) EXPECT_NEAR(std::accumulate(&p[5 * row], &p[5 * row] + 5, 0.0), 1, 1e-15);
}

TEST(Softmax, WhatIsMaskedIsZero) {
  Tape tape;
  const float out = -std::numeric_limits<float>::infinity();
  EXPECT_THAT(host_values<float>(softmax(tape, constant(tensor<float>(memory, {4}, {out, 7, out, 7}))).value),
              ElementsAre(0, 0.5, 0, 0.5));
}

TEST(Softmax, BitsDoNotDependOnThreads) {
  Tape tape;
  for (const auto dtype : {DType::F32, DType::F64}) {
    const Tensor x = random_tensor(Memory::cpu(1), {301, 67}, 1, 3.0, dtype);
    Tensor y = Tensor::empty(Memory::cpu(3), dtype, x.shape());
    y.copy_from(x);
    EXPECT_TRUE(bit_identical(softmax(tape, constant(x)).value, softmax(tape, constant(y)).value));
  }
}

TEST(Softmax, Gradients) {
  for (const Shape& shape : {Shape{0, 5}, Shape{5, 0}, Shape{1, 1}, Shape{7}, Shape{5, 13}, Shape{2, 3, 4}})
    check_gradients([](Tape& tape, std::span<const Var> in) { return softmax(tape, in[0]); },
                    {random_tensor(memory, shape, 1, 2.0)});
}

TEST(Softmax, BadInput) {
  Tape tape;
  EXPECT_THAT([&] { softmax(tape, constant(Tensor::zeros(memory, DType::F32, {}))); },
              ThrowsMessage<Error>("softmax: x is a scalar, expected one dimension or more"));
}

}  // namespace
}  // namespace limbeck::core
