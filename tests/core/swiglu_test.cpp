#include "core/ops/swiglu.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <cmath>
#include <vector>

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

TEST(Swiglu, Values) {
  Tape tape;
  const Var gate = constant(tensor<double>(memory, {4}, {0, 1, -2, 800}));
  const Var up = constant(tensor<double>(memory, {4}, {5, 2, 3, 1}));
  const Tensor y = swiglu(tape, gate, up).value;
  EXPECT_EQ(y.data<double>()[0], 0);
  EXPECT_NEAR(y.data<double>()[1], 2 * 0.73105857863000488, 1e-13);   // sigmoid(1)
  EXPECT_NEAR(y.data<double>()[2], -6 * 0.11920292202211756, 1e-13);  // sigmoid(-2)
  EXPECT_NEAR(y.data<double>()[3], 800, 1e-9);
}

TEST(Swiglu, Float32AtTheEdges) {
  Tape tape;
  const Var gate = leaf(tensor<float>(memory, {4}, {-1000, -88, 88, 1000}));
  const Var up = leaf(tensor<float>(memory, {4}, {1, 1, 1, 1}));
  const Var y = swiglu(tape, gate, up);
  accumulate(y.slot, tensor<float>(memory, {4}, {1, 1, 1, 1}));
  tape.run();
  const std::vector<float> expected{0, 0, 88, 1000}, dgate{0, 0, 1, 1};
  for (int i = 0; i < 4; ++i) {
    EXPECT_NEAR(y.value.data<float>()[i], expected[i], 1e-4);
    EXPECT_NEAR(gate.slot->grad.data<float>()[i], dgate[i], 1e-4);
    EXPECT_NEAR(up.slot->grad.data<float>()[i], expected[i], 1e-4);
  }
}

TEST(Swiglu, Gradients) {
  for (const Shape& shape : {Shape{0, 5}, Shape{1, 1}, Shape{5, 13}})
    check_gradients([](Tape& tape, std::span<const Var> in) { return swiglu(tape, in[0], in[1]); },
                    {random_tensor(memory, shape, 1, 3.0), random_tensor(memory, shape, 2)});
  check_gradients([](Tape& tape, std::span<const Var> in) { return swiglu(tape, in[0], in[0]); },
                  {random_tensor(memory, {3, 3}, 1)});
}

// g sigmoid(1.702 g) (u + 1), with g at most 1.5 and u within it (gpt-oss).
TEST(Swiglu, ClampedValues) {
  Tape tape;
  const std::vector<double> gates{0.5, 2, -9, 1.5, 0}, ups{0.25, -3, 8, -1.5, 1};
  const Var gate = leaf(tensor<double>(memory, {5}, {0.5, 2, -9, 1.5, 0}));
  const Var up = leaf(tensor<double>(memory, {5}, {0.25, -3, 8, -1.5, 1}));
  const Var y = swiglu(tape, gate, up, Activation::ClampedSwish, 1.5);
  accumulate(y.slot, tensor<double>(memory, {5}, {1, 1, 1, 1, 1}));
  tape.run();
  for (int i = 0; i < 5; ++i) {
    const double g = std::min(gates[i], 1.5), u = std::clamp(ups[i], -1.5, 1.5), s = 1 / (1 + std::exp(-1.702 * g));
    EXPECT_NEAR(y.value.data<double>()[i], g * s * (u + 1), 1e-14);
    const double slope = gates[i] <= 1.5 ? (s + 1.702 * g * s * (1 - s)) * (u + 1) : 0;
    EXPECT_NEAR(gate.slot->grad.data<double>()[i], slope, 1e-14);
    EXPECT_NEAR(up.slot->grad.data<double>()[i], std::abs(ups[i]) <= 1.5 ? g * s : 0, 1e-14);
  }
}

TEST(Swiglu, ClampedGradients) {
  for (const Shape& shape : {Shape{0, 5}, Shape{1, 1}, Shape{5, 13}})
    check_gradients(
        [](Tape& tape, std::span<const Var> in) { return swiglu(tape, in[0], in[1], Activation::ClampedSwish, 0.7); },
        {random_tensor(memory, shape, 1, 3.0), random_tensor(memory, shape, 2)});
}

TEST(Swiglu, ALimitIsOfClampedSwishAlone) {
  Tape tape;
  const Var x = constant(Tensor::zeros(memory, DType::F32, {2}));
  EXPECT_THAT([&] { swiglu(tape, x, x, Activation::ClampedSwish); },
              ThrowsMessage<Error>(HasSubstr("swiglu: limit is 0, expected one above 0 of ClampedSwish alone")));
  EXPECT_THAT([&] { swiglu(tape, x, x, Activation::Silu, 7); }, ThrowsMessage<Error>(HasSubstr("limit is 7")));
}

TEST(Swiglu, BadInput) {
  Tape tape;
  EXPECT_THAT(
      [&] {
        swiglu(tape, constant(Tensor::zeros(memory, DType::F32, {2, 3})),
               constant(Tensor::zeros(memory, DType::F32, {2, 4})));
      },
      ThrowsMessage<Error>(HasSubstr("swiglu: up has shape [2,4], expected [2,3] as gate")));
}

}  // namespace
}  // namespace limbeck::core
