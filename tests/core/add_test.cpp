#include "core/ops/add.h"

#include <gmock/gmock.h>

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

TEST(Add, Values) {
  Tape tape;
  const Var a = constant(tensor<float>(memory, {3}, {1, 2, 3})), b = constant(tensor<float>(memory, {3}, {10, 20, 30}));
  EXPECT_THAT(host_values<float>(add(tape, a, b).value), ElementsAre(11, 22, 33));
  EXPECT_THAT(host_values<float>(scale(tape, a, -2).value), ElementsAre(-2, -4, -6));
  EXPECT_EQ(tape.num_steps(), 0U) << "nothing to differentiate: nothing is recorded";
}

TEST(Add, Gradients) {
  for (const Shape& shape : {Shape{0, 5}, Shape{1, 1}, Shape{3, 7}, Shape{}}) {
    const Tensor a = random_tensor(memory, shape, 1), b = random_tensor(memory, shape, 2);
    check_gradients([](Tape& tape, std::span<const Var> in) { return add(tape, in[0], in[1]); }, {a, b});
    check_gradients([](Tape& tape, std::span<const Var> in) { return scale(tape, in[0], -1.5); }, {a});
    check_gradients([](Tape& tape, std::span<const Var> in) { return add(tape, in[0], in[0]); }, {a});
  }
}

// The incoming gradient is handed to both inputs; what one branch adds to it must not reach the other.
TEST(Add, SharedGradientsStayApart) {
  check_gradients(
      [](Tape& tape, std::span<const Var> in) {
        const Var y = scale(tape, in[0], 3);
        const Var sum = add(tape, y, in[1]);
        return add(tape, add(tape, sum, scale(tape, y, 5)), scale(tape, in[1], 7));
      },
      {random_tensor(memory, {4, 3}, 1), random_tensor(memory, {4, 3}, 2)});
}

TEST(Add, BadInput) {
  Tape tape;
  const Var a = constant(Tensor::zeros(memory, DType::F32, {2, 3}));
  EXPECT_THAT(
      [&] {
        add(tape, a, constant(Tensor::zeros(memory, DType::F32, {3, 2})));
      },
      ThrowsMessage<Error>(HasSubstr("add: b has shape [3,2], expected [2,3]")));
  EXPECT_THAT(
      [&] {
        add(tape, a, constant(Tensor::zeros(memory, DType::F64, {2, 3})));
      },
      ThrowsMessage<Error>(HasSubstr("add: b is float64, expected float32")));
  EXPECT_THAT([&] { scale(tape, constant(Tensor::zeros(memory, DType::I32, {2})), 2); },
              ThrowsMessage<Error>(HasSubstr("scale: dtype is int32")));
}

}  // namespace
}  // namespace limbeck::core
