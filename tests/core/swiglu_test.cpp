#include "core/ops/swiglu.h"

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
