#include "core/ops/split_rows.h"

#include <gmock/gmock.h>

#include "tests/support/gradient_check.h"
#include "tests/support/tensors.h"

namespace limbeck::core {
namespace {

using testing::check_gradients;
using ::testing::HasSubstr;
using testing::random_tensor;
using ::testing::ThrowsMessage;

const auto memory = Memory::cpu(2);

// Also more parts than rows.
TEST(SplitRows, GradientsOfThePartsAndOfAllTogether) {
  for (const std::int64_t rows : {0, 1, 2, 7})
    for (const std::int64_t parts : {1, 2, 3, 5}) {
      const Tensor x = random_tensor(memory, {rows, 3}, 1);
      check_gradients([&](Tape& tape, std::span<const Var> in) { return split_rows(tape, in[0], parts); }, {x});
      check_gradients(
          [&](Tape& tape, std::span<const Var> in) {
            return join_rows(tape, {in[0], in[1], in[0]});
          },
          {x, random_tensor(memory, {parts, 3}, 2)});
    }
}

TEST(SplitRows, PartsAreInOrderAndTogetherTheWhole) {
  const Tensor x = testing::tensor<float>(memory, {5, 2}, {0, 1, 2, 3, 4, 5, 6, 7, 8, 9});
  Tape tape;
  const std::vector<Var> parts = split_rows(tape, constant(x), 3);
  EXPECT_THAT(host_values<float>(parts[0].value), ::testing::ElementsAre(0, 1));
  EXPECT_THAT(host_values<float>(parts[1].value), ::testing::ElementsAre(2, 3, 4, 5));
  EXPECT_THAT(host_values<float>(parts[2].value), ::testing::ElementsAre(6, 7, 8, 9));
  EXPECT_EQ(host_values<float>(join_rows(tape, parts).value), host_values<float>(x));
  EXPECT_EQ(tape.num_steps(), 0U);  // nothing flows back
}

TEST(SplitRows, WhatDoesNotFitIsRefused) {
  Tape tape;
  const auto zeros = [](DType dtype, const Shape& shape) { return constant(Tensor::zeros(memory, dtype, shape)); };
  const Var x = zeros(DType::F32, {2, 3});
  EXPECT_THROW(split_rows(tape, x, 0), Error);
  EXPECT_THROW(join_rows(tape, {}), Error);
  EXPECT_THAT(
      [&] {
        join_rows(tape, {x, zeros(DType::F32, {2, 4})});
      },
      ThrowsMessage<Error>(HasSubstr("a part is float32 [2,4], the first float32 [2,3]")));
  EXPECT_THROW(join_rows(tape, {x, zeros(DType::F64, {2, 3})}), Error);
}

}  // namespace
}  // namespace limbeck::core
