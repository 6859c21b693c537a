#include "core/ops/dropout.h"

#include <gmock/gmock.h>

#include <cmath>
#include <limits>

#include "tests/support/gradient_check.h"
#include "tests/support/tensors.h"

namespace limbeck::core {
namespace {

using testing::bit_identical;
using testing::check_gradients;
using ::testing::Each;
using testing::random_tensor;
using testing::tensor;
using ::testing::ThrowsMessage;

const auto memory = Memory::cpu(2);
const RandomStream noise(5, 9, "layers.3.dropout");

Tensor indices(std::int64_t first, std::int64_t count) {
  std::vector<std::int64_t> values;
  for (std::int64_t t = 0; t < count; ++t) values.push_back(first + t);
  return tensor<std::int64_t>(memory, {count}, values);
}

// The mask is that of the stream, whose numbers are held against Random123's in random_test.cpp.
TEST(Dropout, KeepsWhatTheStreamSays) {
  Tape tape;
  const Tensor x = random_tensor(memory, {3, 40}, 1);
  const Tensor index = tensor<std::int64_t>(memory, {3}, {70, 2, std::int64_t{1} << 40});
  const auto in = host_values<double>(x),
             out = host_values<double>(dropout(tape, constant(x), index, 0.3, noise).value);
  const auto global = host_values<std::int64_t>(index);
  for (std::size_t i = 0; i < in.size(); ++i) {
    const bool kept = noise.uniform(static_cast<std::uint64_t>(global[i / 40]) * 40 + i % 40) >= 0.3;
    EXPECT_NEAR(out[i], kept ? in[i] / 0.7 : 0, 1e-15) << i;
  }
}

TEST(Dropout, DropsSoManyAndKeepsTheMean) {
  Tape tape;
  const std::int64_t rows = 500, width = 40;
  Tensor ones = Tensor::empty(memory, DType::F32, {rows, width});
  std::fill_n(ones.mutable_data<float>(), ones.numel(), 1.0F);
  double zeros = 0, total = 0;
  for (const float y : host_values<float>(dropout(tape, constant(ones), indices(0, rows), 0.25, noise).value)) {
    zeros += y == 0 ? 1 : 0;
    total += y;
  }
  const double n = static_cast<double>(rows * width), deviation = std::sqrt(0.25 * 0.75 / n);
  EXPECT_NEAR(zeros / n, 0.25, 6 * deviation);
  EXPECT_NEAR(total / n, 1, 6 * deviation / 0.75);
}

TEST(Dropout, FollowsTheRowWhereverItLies) {
  Tape tape;
  const Tensor x = random_tensor(memory, {4, 3, 2}, 1);
  const Tensor all = dropout(tape, constant(x), indices(10, 4), 0.5, noise).value;
  for (std::int64_t t = 0; t < 4; ++t)
    EXPECT_TRUE(
        bit_identical(all.rows(t, 1), dropout(tape, constant(x.rows(t, 1)), indices(10 + t, 1), 0.5, noise).value));
  const RandomStream next(5, 10, "layers.3.dropout");
  EXPECT_FALSE(bit_identical(all, dropout(tape, constant(x), indices(10, 4), 0.5, next).value));
}

TEST(Dropout, WhatIsDroppedIsZeroWhateverItWas) {
  Tape tape;
  Tensor x = Tensor::empty(memory, DType::F64, {100, 1});
  std::fill_n(x.mutable_data<double>(), 100, std::numeric_limits<double>::infinity());
  int zeros = 0;
  for (const double y : host_values<double>(dropout(tape, constant(x), indices(0, 100), 0.5, noise).value)) {
    EXPECT_FALSE(std::isnan(y));
    zeros += y == 0 ? 1 : 0;
  }
  EXPECT_GT(zeros, 20);
}

TEST(Dropout, OfNothingIsTheValueItself) {
  Tape tape;
  const Var x = leaf(random_tensor(memory, {3, 4}, 1));
  const Var y = dropout(tape, x, indices(0, 3), 0, noise);
  EXPECT_EQ(y.value.raw(), x.value.raw());
  EXPECT_EQ(tape.num_steps(), 0U);
}

TEST(Dropout, Gradients) {
  for (const std::int64_t rows : {0, 1, 3})
    check_gradients(
        [&](Tape& tape, std::span<const Var> in) { return dropout(tape, in[0], indices(7, rows), 0.4, noise); },
        {random_tensor(memory, {rows, 5}, 1)});
}

TEST(Dropout, BadInput) {
  Tape tape;
  const Var x = constant(Tensor::zeros(memory, DType::F32, {2, 3}));
  EXPECT_THAT(
      [&] { dropout(tape, x, indices(0, 3), 0.1, noise); },
      ThrowsMessage<Error>("dropout: x has shape [2,3] and the indices are int64 [3], expected [T,...] and int64 [T]"));
  for (const double p : {-0.1, 1.0, std::numeric_limits<double>::quiet_NaN()})
    EXPECT_THAT([&] { dropout(tape, x, indices(0, 2), p, noise); },
                ThrowsMessage<Error>(fmt::format("dropout: probability is {}, expected 0 to below 1", p)));
}

}  // namespace
}  // namespace limbeck::core
