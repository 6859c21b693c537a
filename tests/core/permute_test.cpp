#include "core/ops/permute.h"

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

// Expert 1 gets no token.
Tensor selection() { return tensor<std::int32_t>(memory, {3, 2}, {2, 0, 0, 3, 2, 3}); }

double dot(const Tensor& a, const Tensor& b) {
  double sum = 0;
  for (std::int64_t i = 0; i < a.numel(); ++i) sum += a.data<double>()[i] * b.data<double>()[i];
  return sum;
}

TEST(Permute, SortIsStable) {
  const Permutation order = make_permutation(selection(), 4);
  EXPECT_THAT(host_values<std::int64_t>(order.counts), ElementsAre(2, 0, 2, 2));
  EXPECT_THAT(host_values<std::int32_t>(order.source), ElementsAre(1, 2, 0, 4, 3, 5));
  EXPECT_THAT(host_values<std::int32_t>(order.row_of), ElementsAre(2, 0, 1, 4, 3, 5));
}

TEST(Permute, Values) {
  Tape tape;
  const Permutation order = make_permutation(selection(), 4);
  const Var x = constant(tensor<double>(memory, {3, 1}, {10, 20, 30}));
  const Var rows = permute(tape, x, order);
  EXPECT_THAT(host_values<double>(rows.value), ElementsAre(10, 20, 10, 30, 20, 30));
  const Var w = constant(tensor<double>(memory, {3, 2}, {1, 2, 3, 4, 5, 6}));
  const Var numbered = constant(tensor<double>(memory, {6, 1}, {1, 10, 100, 1000, 10000, 100000}));
  EXPECT_THAT(host_values<double>(unpermute(tape, numbered, w, order).value), ElementsAre(102, 40030, 605000));
}

TEST(Permute, UnpermuteOfPermuteIsTheIdentityWhereWeightsSumToOne) {
  Tape tape;
  const Permutation order = make_permutation(selection(), 4);
  const Tensor x = random_tensor(memory, {3, 5}, 1);
  const Var w = constant(tensor<double>(memory, {3, 2}, {.25, .75, .5, .5, 1, 0}));
  EXPECT_LT(testing::relative_difference(unpermute(tape, permute(tape, constant(x), order), w, order).value, x), 1e-15);
}

TEST(Permute, UnpermuteIsTheAdjoint) {
  Tape tape;
  const Permutation order = make_permutation(selection(), 4);
  const Tensor x = random_tensor(memory, {3, 5}, 1), y = random_tensor(memory, {6, 5}, 2);
  const Var ones = constant(tensor<double>(memory, {3, 2}, {1, 1, 1, 1, 1, 1}));
  EXPECT_NEAR(dot(permute(tape, constant(x), order).value, y), dot(x, unpermute(tape, constant(y), ones, order).value),
              1e-12);
}

TEST(Permute, Gradients) {
  for (const std::int64_t tokens : {0, 1, 3}) {
    const Permutation order = make_permutation(selection().rows(0, tokens), 4);
    check_gradients([&](Tape& tape, std::span<const Var> in) { return permute(tape, in[0], order); },
                    {random_tensor(memory, {tokens, 5}, 1)});
    check_gradients([&](Tape& tape, std::span<const Var> in) { return unpermute(tape, in[0], in[1], order); },
                    {random_tensor(memory, {tokens * 2, 5}, 1), random_tensor(memory, {tokens, 2}, 2)});
  }
}

// Token 0's first choice and all of token 2 are dropped.
TEST(Permute, DroppedAssignmentsHaveNoRow) {
  Tape tape;
  const Tensor kept = tensor<std::int32_t>(memory, {3, 2}, {-1, 0, 0, 3, -1, -1});
  const Permutation order = make_permutation(kept, 4, Drops::Some);
  EXPECT_THAT(host_values<std::int64_t>(order.counts), ElementsAre(2, 0, 0, 1));
  EXPECT_THAT(host_values<std::int32_t>(order.source), ElementsAre(1, 2, 3, -1, -1, -1));
  EXPECT_THAT(host_values<std::int32_t>(order.row_of), ElementsAre(-1, 0, 1, 2, -1, -1));
  const Var x = constant(tensor<double>(memory, {3, 1}, {10, 20, 30}));
  EXPECT_THAT(host_values<double>(permute(tape, x, order).value), ElementsAre(10, 20, 20, 0, 0, 0));
  const Var w = constant(tensor<double>(memory, {3, 2}, {1, 2, 3, 4, 5, 6}));
  const Var numbered = constant(tensor<double>(memory, {6, 1}, {1, 10, 100, 7, 7, 7}));
  EXPECT_THAT(host_values<double>(unpermute(tape, numbered, w, order).value), ElementsAre(2, 430, 0));
  check_gradients([&](Tape& t, std::span<const Var> in) { return permute(t, in[0], order); },
                  {random_tensor(memory, {3, 5}, 1)});
  check_gradients([&](Tape& t, std::span<const Var> in) { return unpermute(t, in[0], in[1], order); },
                  {random_tensor(memory, {6, 5}, 1), random_tensor(memory, {3, 2}, 2)});
  EXPECT_THAT([&] { make_permutation(kept, 4); },
              ThrowsMessage<Error>("permute: token 0 goes to expert -1, expected one in [0,4)"));
}

TEST(Permute, EveryAssignmentDropped) {
  Tape tape;
  const Permutation order = make_permutation(tensor<std::int32_t>(memory, {2, 1}, {-1, -1}), 3, Drops::Some);
  const Var rows = permute(tape, constant(random_tensor(memory, {2, 4}, 1)), order);
  EXPECT_EQ(rows.shape(), (Shape{2, 4}));
  EXPECT_THAT(host_values<double>(rows.value), ::testing::Each(0.0));
  const Var y = unpermute(tape, rows, constant(random_tensor(memory, {2, 1}, 2)), order);
  EXPECT_THAT(host_values<double>(y.value), ::testing::Each(0.0));
}

TEST(Permute, BadInput) {
  Tape tape;
  EXPECT_THAT([&] { make_permutation(selection(), 3); },
              ThrowsMessage<Error>("permute: token 1 goes to expert 3, expected one in [0,3)"));
  const Permutation order = make_permutation(selection(), 4);
  const auto zeros = [](const Shape& shape) { return constant(Tensor::zeros(memory, DType::F32, shape)); };
  EXPECT_THAT(
      [&] {
        permute(tape, zeros({4, 5}), order);
      },
      ThrowsMessage<Error>("permute: x has shape [4,5], expected [3,C]"));
  EXPECT_THAT(
      [&] {
        unpermute(tape, zeros({5, 5}), zeros({3, 2}), order);
      },
      ThrowsMessage<Error>("unpermute: rows have shape [5,5], expected [6,C]"));
  EXPECT_THAT(
      [&] {
        unpermute(tape, zeros({6, 5}), zeros({2, 3}), order);
      },
      ThrowsMessage<Error>(HasSubstr("weights have shape [2,3], expected [3,2]")));
}

TEST(Permute, WhatHasNoExpertHasNoneByOtherNumbers) {
  const Tensor selection = testing::tensor<std::int32_t>(memory, {2, 3}, {3, -1, 0, 1, 2, 1});
  const Tensor numbers = testing::tensor<std::int32_t>(memory, {4}, {0, 4, 2, 5});
  EXPECT_THAT(host_values<std::int32_t>(renumbered(selection, numbers)), ::testing::ElementsAre(5, -1, 0, 4, 2, 4));
}

}  // namespace
}  // namespace limbeck::core
