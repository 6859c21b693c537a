#include "core/ops/add_bias.h"

#include <gmock/gmock.h>

#include "tests/support/gradient_check.h"
#include "tests/support/tensors.h"

namespace limbeck::core {
namespace {

using testing::bit_identical;
using testing::check_gradients;
using ::testing::ElementsAre;
using testing::random_tensor;
using testing::tensor;
using ::testing::ThrowsMessage;

const auto memory = Memory::cpu(1);

TEST(AddBias, Values) {
  Tape tape;
  const Var x = constant(tensor<double>(memory, {2, 3}, {1, 2, 3, 4, 5, 6}));
  const Var bias = constant(tensor<double>(memory, {3}, {10, 0, -1}));
  EXPECT_THAT(host_values<double>(add_bias(tape, x, bias).value), ElementsAre(11, 2, 2, 14, 5, 5));
  EXPECT_EQ(tape.num_steps(), 0);
}

TEST(AddBias, GradientsEqualDifferences) {
  for (const Shape& shape : {Shape{0, 5}, Shape{1, 1}, Shape{1, 7}, Shape{40, 3}, Shape{2, 0}})
    check_gradients([](Tape& tape, std::span<const Var> in) { return add_bias(tape, in[0], in[1]); },
                    {random_tensor(memory, shape, 1), random_tensor(memory, {shape[1]}, 2)});
}

TEST(AddBias, BesideBfloat16IsOfFloat32) {
  Tape tape;
  const Var x = leaf(tensor<float>(memory, {2, 2}, {1, 2, 3, 4}).to(DType::BF16));
  const Var bias = leaf(tensor<float>(memory, {2}, {0.5, 256.5}));
  const Var y = add_bias(tape, x, bias);
  accumulate(y.slot, tensor<float>(memory, {2, 2}, {1, 256, 0.5, 1}).to(DType::BF16));
  tape.run();
  EXPECT_THAT(host_values<float>(y.value.to(DType::F32)), ElementsAre(1.5, 258, 3.5, 260));  // 258.5 and 260.5, to even
  EXPECT_THAT(host_values<float>(bias.slot->grad), ElementsAre(1.5, 257));                   // which no bfloat16 is
  EXPECT_TRUE(bit_identical(x.slot->grad, tensor<float>(memory, {2, 2}, {1, 256, 0.5, 1}).to(DType::BF16)));
}

TEST(AddBias, NamesShapesAndDtypesThatDoNotFit) {
  Tape tape;
  const auto zeros = [](DType dtype, const Shape& shape) { return constant(Tensor::zeros(memory, dtype, shape)); };
  EXPECT_THAT(
      [&] {
        add_bias(tape, zeros(DType::F32, {4, 8}), zeros(DType::F32, {7}));
      },
      ThrowsMessage<Error>("add_bias: bias has shape [7], expected [8] (x is [4,8])"));
  EXPECT_THAT([&] { add_bias(tape, zeros(DType::F32, {8}), zeros(DType::F32, {8})); },
              ThrowsMessage<Error>("add_bias: x has shape [8], expected [T,C]"));
  EXPECT_THAT(
      [&] {
        add_bias(tape, zeros(DType::BF16, {4, 8}), zeros(DType::BF16, {8}));
      },
      ThrowsMessage<Error>("add_bias: bias is bfloat16, expected float32 beside x of bfloat16"));
}

}  // namespace
}  // namespace limbeck::core
