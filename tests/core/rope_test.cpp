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
  constexpr std::int64_t T = 3, D = 6;
  const std::vector<std::int32_t> position{0, 9, 4};
  const Tensor q = random_tensor(memory, {T, 2 * D}, 1), k = random_tensor(memory, {T, D}, 2);
  Tape tape;
  const auto turned = rope(tape, constant(q), constant(k), tensor<std::int32_t>(memory, {T}, position),
                           make_rope_table(memory, DType::F64, 10, D, 1000.0));
  const auto expect_turned = [&](const Tensor& x, const Tensor& y) {
    const std::int64_t heads = x.shape()[1] / D;
    for (std::int64_t t = 0; t < T; ++t)
      for (std::int64_t h = 0; h < heads; ++h)
        for (std::int64_t i = 0; i < D / 2; ++i) {
          const auto* from = x.data<double>() + (t * heads + h) * D + i;
          const auto* to = y.data<double>() + (t * heads + h) * D + i;
          const double angle = position[t] / std::pow(1000.0, 2.0 * static_cast<double>(i) / D);
          EXPECT_NEAR(to[0], from[0] * std::cos(angle) - from[3] * std::sin(angle), 1e-13);
          EXPECT_NEAR(to[3], from[3] * std::cos(angle) + from[0] * std::sin(angle), 1e-13);
        }
  };
  expect_turned(q, turned.first.value);
  expect_turned(k, turned.second.value);
}

// Of wider heads the first channels turn, and the others stay.
TEST(Rope, MayTurnAPartOfAHead) {
  const RopeTable table = make_rope_table(memory, DType::F64, 9, 4, 100.0);
  const Tensor position = tensor<std::int32_t>(memory, {3}, {8, 0, 5});
  const Tensor q = random_tensor(memory, {3, 12}, 1), k = random_tensor(memory, {3, 6}, 2);
  Tape tape;
  const auto turned = rope(tape, constant(q), constant(k), position, table, {6}, {6});
  for (std::int64_t t = 0; t < 3; ++t)
    for (std::int64_t h = 0; h < 2; ++h) {
      const auto* from = q.data<double>() + (2 * t + h) * 6;
      const auto* to = turned.first.value.data<double>() + (2 * t + h) * 6;
      for (std::int64_t i = 0; i < 2; ++i) {
        const double angle = position.data<std::int32_t>()[t] * (i == 0 ? 1 : 0.1);
        EXPECT_NEAR(to[i], from[i] * std::cos(angle) - from[i + 2] * std::sin(angle), 1e-13);
        EXPECT_NEAR(to[i + 2], from[i + 2] * std::cos(angle) + from[i] * std::sin(angle), 1e-13);
      }
      EXPECT_EQ(to[4], from[4]);
      EXPECT_EQ(to[5], from[5]);
    }
  check_gradients(
      [&](Tape& inner, std::span<const Var> in) {
        auto [a, b] = rope(inner, in[0], in[1], position, table, {6}, {6});
        return std::vector<Var>{a, b};
      },
      {q, k});
  EXPECT_THAT(
      [&] {
        rope(tape, constant(q), constant(k), position, make_rope_table(memory, DType::F64, 9, 8, 100.0), {6}, {6});
      },
      ThrowsMessage<Error>("rope: channels 0 to 8 of heads of 6 turn (queries)"));
}

TEST(Rope, ATokenTurnsByTheTableOfItsContext) {
  const std::vector<double> slow{0.1, 0.01}, fast{1, 0.5};
  const RopeTable first = make_rope_table(memory, DType::F64, 6, slow),
                  second = make_rope_table(memory, DType::F64, 6, fast);
  const Tensor position = tensor<std::int32_t>(memory, {4}, {0, 3, 3, 5}),
               context = tensor<std::int32_t>(memory, {4}, {4, 4, 6, 6});
  const Var x = constant(random_tensor(memory, {4, 4}, 1));
  Tape tape;
  const Tensor rows = rope_rows(position, context, 4, 6);
  const Tensor turned = rope(tape, x, x, rows, joined(first, second)).first.value;
  const Tensor by_first = rope(tape, x, x, position, first).first.value,
               by_second = rope(tape, x, x, position, second).first.value;
  EXPECT_TRUE(testing::bit_identical(turned.rows(0, 2), by_first.rows(0, 2)));
  EXPECT_TRUE(testing::bit_identical(turned.rows(2, 2), by_second.rows(2, 2)));
  EXPECT_FALSE(testing::bit_identical(by_first.rows(2, 2), by_second.rows(2, 2)));
  EXPECT_THROW(rope_rows(position, context.rows(0, 1), 4, 6), Error);
}

// What attention relies on: the product of two turned vectors depends on the distance alone.
TEST(Rope, ProductsDependOnTheDistance) {
  const RopeTable table = make_rope_table(memory, DType::F64, 64, 8, 10000.0);
  const auto product = [&](std::int32_t p, std::int32_t q) {
    const auto turned = [&](std::uint64_t seed, std::int32_t at) {
      Tape tape;
      const Var x = constant(random_tensor(memory, {1, 8}, seed));
      return rope(tape, x, x, tensor<std::int32_t>(memory, {1}, {at}), table).first.value;
    };
    const Tensor a = turned(1, p), b = turned(2, q);
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
      check_gradients(
          [&](Tape& tape, std::span<const Var> in) {
            auto [q, k] = rope(tape, in[0], in[1], position, table);
            return std::vector<Var>{q, k};
          },
          {random_tensor(memory, {tokens, heads * 6}, 1), random_tensor(memory, {tokens, 6}, 2)});
  }
}

// The last channels of queries' heads, and keys that are one head.
TEST(Rope, PartsOfHeadsTurn) {
  constexpr std::int64_t T = 3, D = 6, width = 10, first = 4;
  const RopeTable table = make_rope_table(memory, DType::F64, 10, D, 1000.0);
  const Tensor position = tensor<std::int32_t>(memory, {T}, {0, 9, 4});
  const Tensor q = random_tensor(memory, {T, 2 * width}, 1), k = random_tensor(memory, {T, D}, 2);
  Tape tape;
  const auto turned = rope(tape, constant(q), constant(k), position, table, {width, first});
  Tensor parts = Tensor::zeros(memory, DType::F64, {T, 2 * D});
  for (std::int64_t row = 0; row < 2 * T; ++row)
    for (std::int64_t i = 0; i < D; ++i)
      parts.mutable_data<double>()[row * D + i] = q.data<double>()[row * width + first + i];
  const auto alone = rope(tape, constant(parts), constant(k), position, table);
  for (std::int64_t row = 0; row < 2 * T; ++row)
    for (std::int64_t i = 0; i < width; ++i)
      EXPECT_EQ(turned.first.value.data<double>()[row * width + i],
                i < first ? q.data<double>()[row * width + i] : alone.first.value.data<double>()[row * D + i - first]);
  EXPECT_TRUE(testing::bit_identical(turned.second.value, alone.second.value));
  check_gradients(
      [&](Tape& inner, std::span<const Var> in) {
        auto [a, b] = rope(inner, in[0], in[1], position, table, {width, first});
        return std::vector<Var>{a, b};
      },
      {q, k});
  EXPECT_THAT(
      [&] {
        rope(tape, constant(q), constant(k), position, table, {width, 5});
      },
      ThrowsMessage<Error>("rope: channels 5 to 11 of heads of 10 turn (queries)"));
}

TEST(Rope, TurnsInPlaceWhatIsNobodysElse) {
  const RopeTable table = make_rope_table(memory, DType::F64, 4, 6, 10000.0);
  const Tensor position = tensor<std::int32_t>(memory, {2}, {1, 3}), value = random_tensor(memory, {2, 12}, 1);
  Tape tape;
  Var q = leaf(value.clone());
  const SlotPtr slot = q.slot;
  const std::byte* place = q.value.raw();
  const Var k = leaf(value.clone());
  const auto turned = rope(tape, std::move(q), k, position, table);
  EXPECT_EQ(turned.first.value.raw(), place);
  EXPECT_TRUE(testing::bit_identical(k.value, value));
  EXPECT_TRUE(testing::bit_identical(turned.first.value, turned.second.value));

  const Tensor kept = random_tensor(memory, {2, 12}, 2), before = kept.clone();
  accumulate(turned.first.slot, kept.clone());
  accumulate(turned.second.slot, kept);
  place = turned.first.slot->grad.raw();
  tape.run();
  EXPECT_EQ(slot->grad.raw(), place);
  EXPECT_TRUE(testing::bit_identical(kept, before));
  EXPECT_TRUE(testing::bit_identical(slot->grad, k.slot->grad));
}

TEST(Rope, BadInput) {
  Tape tape;
  const RopeTable table = make_rope_table(memory, DType::F32, 4, 6, 10000.0);
  const auto zeros = [](DType dtype, const Shape& shape) { return constant(Tensor::zeros(memory, dtype, shape)); };
  const auto error_of = [&](const Var& q, const Var& k, const std::vector<std::int32_t>& position) {
    return [&tape, &table, q, k, position] {
      rope(tape, q, k, tensor<std::int32_t>(memory, {static_cast<std::int64_t>(position.size())}, position), table);
    };
  };
  const Var x = zeros(DType::F32, {2, 12});
  EXPECT_THAT(error_of(x, x, {0, 4}),
              ThrowsMessage<Error>("rope: position 4 of token 1 is not in the table of 4 positions"));
  EXPECT_THAT(error_of(x, x, {-1, 0}), ThrowsMessage<Error>(HasSubstr("position -1 of token 0")));
  EXPECT_THAT(error_of(x, x, {0, 0, 0}),
              ThrowsMessage<Error>(HasSubstr("position has shape [3], expected [2] (queries are [2,12])")));
  EXPECT_THAT(error_of(x, zeros(DType::F32, {3, 12}), {0, 0}),
              ThrowsMessage<Error>(HasSubstr("position has shape [2], expected [3] (keys are [3,12])")));
  EXPECT_THAT(error_of(zeros(DType::F32, {2, 10}), x, {0, 0}),
              ThrowsMessage<Error>(HasSubstr("rope: queries have shape [2,10], expected [T,H*6]")));
  EXPECT_THAT(error_of(x, zeros(DType::F64, {2, 12}), {0, 0}),
              ThrowsMessage<Error>(HasSubstr("rope: keys are float64, expected float32 as the table")));
  EXPECT_THAT(error_of(x, zeros(DType::BF16, {2, 12}), {0, 0}),
              ThrowsMessage<Error>("rope: keys are bfloat16, expected float32 as queries"));
  EXPECT_THAT([&] { make_rope_table(memory, DType::F32, 4, 5, 10000.0); },
              ThrowsMessage<Error>(HasSubstr("5 channels turn, expected an even number")));
}

}  // namespace
}  // namespace limbeck::core
