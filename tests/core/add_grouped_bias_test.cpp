#include "core/ops/add_grouped_bias.h"

#include <gmock/gmock.h>

#include "tests/support/gradient_check.h"
#include "tests/support/tensors.h"

namespace limbeck::core {
namespace {

using testing::check_gradients;
using ::testing::ElementsAre;
using testing::random_tensor;
using testing::tensor;
using ::testing::ThrowsMessage;

const auto memory = Memory::cpu(2);

Tensor make_offsets(std::vector<std::int64_t> values) {
  return Tensor::from<std::int64_t>(memory, {std::ssize(values)}, values);
}

// Row 0 and the last belong to no expert; the second expert has none.
TEST(AddGroupedBias, Values) {
  Tape tape;
  const Var x = constant(tensor<double>(memory, {5, 2}, {1, 2, 3, 4, 5, 6, 7, 8, 9, 10}));
  const Var bias = constant(tensor<double>(memory, {3, 2}, {10, 20, 30, 40, 50, 60}));
  EXPECT_THAT(host_values<double>(add_grouped_bias(tape, x, bias, make_offsets({1, 3, 3, 4})).value),
              ElementsAre(1, 2, 13, 24, 15, 26, 57, 68, 9, 10));
  EXPECT_EQ(tape.num_steps(), 0);
}

// Ranks that have parts of a sum add their parts of the columns.
TEST(AddGroupedBias, MayBeOfSomeColumns) {
  Tape tape;
  const Var x = constant(Tensor::zeros(memory, DType::F64, {2, 4}));
  const Var bias = constant(tensor<double>(memory, {2, 2}, {1, 2, 3, 4}));
  EXPECT_THAT(host_values<double>(add_grouped_bias(tape, x, bias, make_offsets({0, 1, 2}), 1).value),
              ElementsAre(0, 1, 2, 0, 0, 3, 4, 0));
}

TEST(AddGroupedBias, GradientsEqualDifferences) {
  const auto run = [](std::int64_t rows, std::vector<std::int64_t> values, std::int64_t columns, std::int64_t first) {
    const Tensor offsets = make_offsets(values);
    check_gradients(
        [&](Tape& tape, std::span<const Var> in) { return add_grouped_bias(tape, in[0], in[1], offsets, first); },
        {random_tensor(memory, {rows, 5}, 1), random_tensor(memory, {std::ssize(values) - 1, columns}, 2)});
  };
  run(0, {0, 0, 0}, 5, 0);
  run(1, {0, 1}, 5, 0);
  run(9, {1, 1, 4, 4, 8, 8}, 5, 0);
  run(9, {1, 1, 4, 4, 8, 8}, 2, 3);
  run(3, {0, 3}, 0, 5);
}

TEST(AddGroupedBias, BesideBfloat16IsOfFloat32) {
  Tape tape;
  const Var x = leaf(tensor<float>(memory, {2, 2}, {1, 2, 3, 4}).to(DType::BF16));
  const Var bias = leaf(tensor<float>(memory, {1, 2}, {0.5, 256.5}));
  const Var y = add_grouped_bias(tape, x, bias, make_offsets({0, 2}));
  accumulate(y.slot, tensor<float>(memory, {2, 2}, {1, 256, 0.5, 1}).to(DType::BF16));
  tape.run();
  EXPECT_THAT(host_values<float>(y.value.to(DType::F32)), ElementsAre(1.5, 258, 3.5, 260));  // 258.5 and 260.5, to even
  EXPECT_THAT(host_values<float>(bias.slot->grad), ElementsAre(1.5, 257));                   // which no bfloat16 is
}

TEST(AddGroupedBias, NamesShapesAndDtypesThatDoNotFit) {
  Tape tape;
  const auto zeros = [](DType dtype, const Shape& shape) { return constant(Tensor::zeros(memory, dtype, shape)); };
  EXPECT_THAT(
      [&] {
        add_grouped_bias(tape, zeros(DType::F32, {4, 8}), zeros(DType::F32, {2, 7}), make_offsets({0, 1, 4}), 2);
      },
      ThrowsMessage<Error>(
          "add_grouped_bias: bias has shape [2,7], expected [E,C'] of columns from 2 on (x is [4,8])"));
  EXPECT_THAT(
      [&] {
        add_grouped_bias(tape, zeros(DType::F32, {8}), zeros(DType::F32, {1, 8}), make_offsets({0, 1}));
      },
      ThrowsMessage<Error>("add_grouped_bias: x has shape [8], expected [R,C]"));
  EXPECT_THAT(
      [&] {
        add_grouped_bias(tape, zeros(DType::BF16, {4, 8}), zeros(DType::BF16, {1, 8}), make_offsets({0, 4}));
      },
      ThrowsMessage<Error>("add_grouped_bias: bias is bfloat16, expected float32 beside x of bfloat16"));
  EXPECT_THAT(
      [&] {
        add_grouped_bias(tape, zeros(DType::F32, {4, 8}), zeros(DType::F32, {2, 8}), make_offsets({0, 4}));
      },
      ThrowsMessage<Error>("add_grouped_bias: offsets are int64 [2], expected int64 [3]"));
}

}  // namespace
}  // namespace limbeck::core
