#include "core/ops/rope.h"

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

// Against complex multiplication: (x[i] + j x[i+D/2]) e^(j angle).
TEST(Rope, Values) {
  constexpr std::int64_t T = 3, H = 2, D = 6;
  const std::vector<std::int32_t> position{0, 9, 4};
  const Tensor x = random_tensor(memory, {T, H * D}, 1);
  Tape tape;
  const Tensor y = rope(tape, constant(x), tensor<std::int32_t>(memory, {T}, position),
                        make_rope_table(memory, DType::F64, 10, D, 1000.0))
                       .value;
  for (std::int64_t t = 0; t < T; ++t)
    for (std::int64_t h = 0; h < H; ++h)
      for (std::int64_t i = 0; i < D / 2; ++i) {
        const auto* from = x.data<double>() + t * H * D + h * D + i;
        const auto* to = y.data<double>() + t * H * D + h * D + i;
        const double angle = position[t] / std::pow(1000.0, 2.0 * static_cast<double>(i) / D);
        EXPECT_NEAR(to[0], from[0] * std::cos(angle) - from[3] * std::sin(angle), 1e-13);
        EXPECT_NEAR(to[3], from[3] * std::cos(angle) + from[0] * std::sin(angle), 1e-13);
      }
}

// What attention relies on: the product of two turned vectors depends on the distance alone.
TEST(Rope, ProductsDependOnTheDistance) {
  const RopeTable table = make_rope_table(memory, DType::F64, 64, 8, 10000.0);
  const auto product = [&](std::int32_t p, std::int32_t q) {
    Tape tape;
    const Tensor a =
        rope(tape, constant(random_tensor(memory, {1, 8}, 1)), tensor<std::int32_t>(memory, {1}, {p}), table).value;
    const Tensor b =
        rope(tape, constant(random_tensor(memory, {1, 8}, 2)), tensor<std::int32_t>(memory, {1}, {q}), table).value;
    double sum = 0;
    for (int i = 0; i < 8; ++i) sum += a.data<double>()[i] * b.data<double>()[i];
    return sum;
  };
  EXPECT_NEAR(product(5, 2), product(63, 60), 1e-12);
  EXPECT_GT(std::abs(product(5, 2) - product(5, 3)), 1e-3);
}

TEST(Rope, Gradients) {
  const RopeTable table = make_rope_table(memory, DType::F64, 32, 6, 10000.0);
  for (const std::int64_t tokens : {0, 1, 5}) {
    const std::vector<std::int32_t> all{31, 0, 7, 7, 2};
    const Tensor position = tensor<std::int32_t>(memory, {tokens}, {all.begin(), all.begin() + tokens});
    for (const std::int64_t heads : {1, 3})
      check_gradients([&](Tape& tape, std::span<const Var> in) { return rope(tape, in[0], position, table); },
                      {random_tensor(memory, {tokens, heads * 6}, 1)});
  }
}

TEST(Rope, BadInput) {
  Tape tape;
  const RopeTable table = make_rope_table(memory, DType::F32, 4, 6, 10000.0);
  const Var x = constant(Tensor::zeros(memory, DType::F32, {2, 12}));
  EXPECT_THAT(
      [&] {
        rope(tape, x, tensor<std::int32_t>(memory, {2}, {0, 4}), table);
      },
      ThrowsMessage<Error>("rope: position 4 of token 1 is not in the table of 4 positions"));
  EXPECT_THAT(
      [&] {
        rope(tape, x, tensor<std::int32_t>(memory, {2}, {-1, 0}), table);
      },
      ThrowsMessage<Error>(HasSubstr("position -1 of token 0")));
  EXPECT_THAT(
      [&] {
        rope(tape, x, tensor<std::int32_t>(memory, {3}, {0, 0, 0}), table);
      },
      ThrowsMessage<Error>(HasSubstr("position has shape [3], expected [2] (x is [2,12])")));
  EXPECT_THAT(
      [&] {
        rope(tape, constant(Tensor::zeros(memory, DType::F32, {2, 10})), tensor<std::int32_t>(memory, {2}, {0, 0}),
             table);
      },
      ThrowsMessage<Error>(HasSubstr("rope: x has shape [2,10], expected [T,H*6]")));
  EXPECT_THAT([&] { make_rope_table(memory, DType::F32, 4, 5, 10000.0); },
              ThrowsMessage<Error>(HasSubstr("head width is 5, expected an even number")));
}

}  // namespace
}  // namespace limbeck::core
