#include "core/ops/cross_entropy.h"

#include <gmock/gmock.h>

#include "core/ops/add.h"
#include "tests/core/golden_ops.h"
#include "tests/support/tensors.h"

namespace limbeck::core {
namespace {

using testing::check_gradients;
using testing::random_tensor;
using testing::tensor;
using ::testing::ThrowsMessage;

const auto memory = Memory::cpu(2);

Tensor targets_of(const std::vector<std::int32_t>& values) {
  return tensor<std::int32_t>(memory, {static_cast<std::int64_t>(values.size())}, values);
}

TEST(CrossEntropy, Golden) {
  const Tensor targets = targets_of(testing::golden_ops()["targets"]);
  testing::expect_golden(memory, "cross_entropy", "cross_entropy_dx",
                         [&](Tape& tape, const Var& x) { return cross_entropy(tape, x, targets); });
}

TEST(CrossEntropy, Gradients) {
  for (const auto& targets : std::vector<std::vector<std::int32_t>>{{}, {0}, {-1}, {3, -1, 12, 0, 0}})
    check_gradients(
        [&](Tape& tape, std::span<const Var> in) { return cross_entropy(tape, in[0], targets_of(targets), 7); },
        {random_tensor(memory, {static_cast<std::int64_t>(targets.size()), 13}, 1, 2.0)});
  check_gradients(
      [](Tape& tape, std::span<const Var> in) {
        return scale(tape, cross_entropy(tape, in[0], targets_of({1, -1, 0})), 5);
      },
      {random_tensor(memory, {3, 2}, 1)});
}

TEST(CrossEntropy, PartsOfRanksAddUpToTheMeanOfAll) {
  Tape tape;
  const Tensor z = random_tensor(memory, {6, 4}, 1);
  const Tensor targets = targets_of({1, -1, 3, 0, -1, 2});
  double parts = 0;
  for (const auto& [first, count] : {std::pair{0, 1}, {1, 1}, {2, 0}, {2, 4}})
    parts += host_value(cross_entropy(tape, constant(z.rows(first, count)), targets.rows(first, count), 4).value);
  EXPECT_NEAR(parts, host_value(cross_entropy(tape, constant(z), targets).value), 1e-15);
}

TEST(CrossEntropy, BadInput) {
  Tape tape;
  const Var z = constant(Tensor::zeros(memory, DType::F32, {2, 3}));
  EXPECT_THAT(
      [&] {
        cross_entropy(tape, z, targets_of({0, 3}));
      },
      ThrowsMessage<Error>("cross_entropy: target 1 is 3, expected -1 or one in [0,3)"));
  EXPECT_THAT(
      [&] {
        cross_entropy(tape, z, targets_of({-2, 0}));
      },
      ThrowsMessage<Error>("cross_entropy: target 0 is -2, expected -1 or one in [0,3)"));
  EXPECT_THAT([&] { cross_entropy(tape, z, targets_of({0})); },
              ThrowsMessage<Error>("cross_entropy: targets are int32 [1], expected int32 [2] (logits are [2,3])"));
  EXPECT_THAT([&] { cross_entropy(tape, constant(Tensor::zeros(memory, DType::F32, {3})), targets_of({0})); },
              ThrowsMessage<Error>("cross_entropy: logits have shape [3], expected [T,V]"));
  EXPECT_THAT(
      [&] {
        cross_entropy(tape, z, targets_of({-1, -1}));
      },
      ThrowsMessage<Error>("cross_entropy: the mean is over 0 elements, expected one or more"));
}

}  // namespace
}  // namespace limbeck::core
