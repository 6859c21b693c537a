#include "core/ops/linear.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/gradient_check.h"

namespace limbeck::core {
namespace {

using testing::check_gradients;
using testing::random_tensor;
using testing::relative_difference;

Var apply(Tape& tape, std::span<const Var> in) { return linear(tape, in[0], in[1]); }
Var apply_with_bias(Tape& tape, std::span<const Var> in) {
  return linear(tape, in[0], in[1], Products::AsActivations, in[2]);
}

TEST(Linear, IsXTimesTheTransposedWeight) {
  const auto memory = Memory::cpu(1);
  const Tensor x = Tensor::from<double>(memory, {2, 3}, std::vector<double>{1, 2, 3, 4, 5, 6});
  const Tensor w = Tensor::from<double>(memory, {2, 3}, std::vector<double>{1, 0, -1, 2, 1, 0});
  Tape tape;
  EXPECT_EQ(host_values<double>(linear(tape, constant(x), constant(w)).value), (std::vector<double>{-2, 4, -2, 13}));
  EXPECT_EQ(tape.num_steps(), 0);
}

TEST(Linear, AddsABias) {
  const auto memory = Memory::cpu(1);
  const Tensor x = Tensor::from<double>(memory, {2, 3}, std::vector<double>{1, 2, 3, 4, 5, 6});
  const Tensor w = Tensor::from<double>(memory, {2, 3}, std::vector<double>{1, 0, -1, 2, 1, 0});
  const Tensor b = Tensor::from<double>(memory, {2}, std::vector<double>{10, -1});
  Tape tape;
  EXPECT_EQ(host_values<double>(apply_with_bias(tape, std::vector{constant(x), constant(w), constant(b)}).value),
            (std::vector<double>{8, 3, 8, 12}));
  EXPECT_EQ(tape.num_steps(), 0);
}

TEST(Linear, GradientsOfABiasEqualDifferences) {
  const auto memory = Memory::cpu(1);
  for (const auto& [rows, in, out] : {std::array<std::int64_t, 3>{0, 3, 2}, {1, 1, 1}, {5, 3, 7}, {70, 2, 3}})
    check_gradients(apply_with_bias, {random_tensor(memory, {rows, in}, 1), random_tensor(memory, {out, in}, 2),
                                      random_tensor(memory, {out}, 3)});
  // A frozen weight, and a bias that is trained.
  check_gradients(apply_with_bias,
                  {random_tensor(memory, {4, 3}, 1), random_tensor(memory, {2, 3}, 2), random_tensor(memory, {2}, 3)},
                  {.differentiate = {false, false, true}});
}

TEST(Linear, GradientsEqualDifferences) {
  const auto memory = Memory::cpu(1);
  for (const auto& [rows, in, out] : {std::array<std::int64_t, 3>{0, 3, 2}, {1, 1, 1}, {5, 3, 7}, {2, 1, 4}, {3, 4, 1}})
    check_gradients(apply, {random_tensor(memory, {rows, in}, 1), random_tensor(memory, {out, in}, 2)});
}

TEST(Linear, OfTiedOperandsAddsBothGradients) {
  const auto memory = Memory::cpu(1);
  check_gradients([](Tape& tape, std::span<const Var> in) { return linear(tape, in[0], in[0]); },
                  {random_tensor(memory, {4, 3}, 1)});
}

TEST(Linear, FrozenBfloat16WeightEqualsTheWidenedOne) {
  const auto memory = Memory::cpu(1);
  const Tensor x = random_tensor(memory, {5, 24}, 1);
  const Tensor w16 = random_tensor(memory, {7, 24}, 2).to(DType::BF16);
  check_gradients([&](Tape& tape, std::span<const Var> in) { return linear(tape, in[0], constant(w16)); }, {x});
  Tape tape;
  const Tensor y = linear(tape, constant(x), constant(w16)).value;
  EXPECT_LE(relative_difference(y, linear(tape, constant(x), constant(w16.to(DType::F64))).value), 1e-15);
}

TEST(Linear, Float32AgreesWithFloat64AndTwoThreadsWithOne) {
  const auto two = Memory::cpu(2);
  const auto one = Memory::cpu(1);
  const auto run = [](const MemoryPtr& memory, DType dtype) {
    Tape tape;
    const Var x = leaf(random_tensor(memory, {128, 65}, 1, 1, dtype));
    const Var w = leaf(random_tensor(memory, {130, 65}, 2, 1, dtype));
    const Var y = linear(tape, x, w);
    accumulate(y.slot, random_tensor(memory, {128, 130}, 3, 1, dtype));
    tape.run();
    return std::vector<Tensor>{y.value, x.slot->grad, w.slot->grad};
  };
  const auto expected = run(one, DType::F64);
  const auto float_one = run(one, DType::F32);
  const auto float_two = run(two, DType::F32);
  const auto double_two = run(two, DType::F64);
  for (std::size_t i = 0; i < expected.size(); ++i) {
    EXPECT_LE(relative_difference(float_one[i], expected[i]), 1e-6) << i;
    EXPECT_LE(relative_difference(float_two[i], expected[i]), 1e-6) << i;
    EXPECT_LE(relative_difference(double_two[i], expected[i]), 1e-14) << i;
  }
}

TEST(Linear, RecordsItsStepForZeroRowsAndCountsTheWeight) {
  const auto memory = Memory::cpu(1);
  Parameter parameter;
  parameter.value = random_tensor(memory, {2, 3}, 1);
  parameter.slot = std::make_shared<Slot>();
  parameter.slot->parameter = &parameter;
  Tape tape;
  int done = 0;
  tape.on_parameter_done([&](Parameter&) { ++done; });
  linear(tape, constant(Tensor::empty(memory, DType::F64, {0, 3})), as_var(parameter));
  EXPECT_EQ(tape.uses().at(&parameter), 1);
  tape.run();
  EXPECT_EQ(done, 1);
  EXPECT_EQ(host_values<double>(parameter.slot->grad), std::vector<double>(6, 0.0));
}

TEST(Linear, NamesShapesAndDtypesThatDoNotFit) {
  const auto memory = Memory::cpu(1);
  Tape tape;
  const Var x = leaf(random_tensor(memory, {4, 3}, 1));
  const auto message = [&](const Var& w) {
    try {
      linear(tape, x, w);
    } catch (const Error& e) {
      return std::string(e.what());
    }
    return std::string("nothing was thrown");
  };
  EXPECT_EQ(message(leaf(random_tensor(memory, {2, 5}, 1))),
            "linear: weight has shape [2,5], expected [out,3] (x is [4,3])");
  EXPECT_THAT(message(leaf(random_tensor(memory, {3}, 1))), ::testing::HasSubstr("[3], expected [out,3]"));
  EXPECT_THAT(message(constant(random_tensor(memory, {2, 3}, 1).to(DType::F32))),
              ::testing::HasSubstr("float32, expected float64 or bfloat16"));
}

// A trained bfloat16 weight has the values and the gradients, in x's dtype, of its widened copy.
TEST(Linear, TrainsBfloat16Weights) {
  const auto memory = Memory::cpu(1);
  const Tensor narrow = random_tensor(memory, {5, 3}, 2).to(DType::BF16);
  const auto run = [&](const Tensor& weight) {
    const Var x = leaf(random_tensor(memory, {4, 3}, 1)), w = leaf(weight);
    Tape tape;
    const Var y = linear(tape, x, w);
    accumulate(y.slot, random_tensor(memory, {4, 5}, 3));
    tape.run();
    return std::vector<Tensor>{y.value, x.slot->grad, w.slot->grad};
  };
  const auto found = run(narrow), expected = run(narrow.to(DType::F64));
  for (std::size_t i = 0; i < 3; ++i) {
    EXPECT_EQ(found[i].dtype(), DType::F64);
    EXPECT_LE(testing::relative_difference(found[i], expected[i]), 1e-14) << i;
  }
}

}  // namespace
}  // namespace limbeck::core
