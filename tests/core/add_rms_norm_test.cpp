#include "core/ops/add_rms_norm.h"

#include <gmock/gmock.h>

#include <cmath>

#include "core/ops/add.h"
#include "core/ops/rms_norm.h"
#include "tests/support/gradient_check.h"
#include "tests/support/tensors.h"

namespace limbeck::core {
namespace {

using testing::bit_identical;
using testing::check_gradients;
using ::testing::DoubleNear;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::random_tensor;
using testing::tensor;
using ::testing::ThrowsMessage;

const auto memory = Memory::cpu(1);

TEST(AddRmsNorm, Values) {
  Tape tape;
  const Var x = constant(tensor<double>(memory, {2, 2}, {2, 5, 7, 0})),
            delta = constant(tensor<double>(memory, {2, 2}, {1, -1, -7, 0}));
  const Var w = constant(tensor<double>(memory, {2}, {1, 10}));
  const NormedSum out = add_rms_norm(tape, x, delta, w, 0.5);
  EXPECT_THAT(host_values<double>(out.sum.value), ElementsAre(3, 4, 0, 0));
  const double r = 1 / std::sqrt(12.5 + 0.5);
  EXPECT_THAT(host_values<double>(out.normed.value),
              ElementsAre(DoubleNear(3 * r, 1e-15), DoubleNear(40 * r, 1e-14), 0, 0));
  EXPECT_EQ(tape.num_steps(), 0U);
}

TEST(AddRmsNorm, Gradients) {
  for (const Shape& shape : {Shape{0, 5}, Shape{1, 1}, Shape{5, 131}, Shape{67, 3}, Shape{2, 0}}) {
    const std::vector<Tensor> inputs = {random_tensor(memory, shape, 1), random_tensor(memory, shape, 2),
                                        random_tensor(memory, {shape[1]}, 3)};
    check_gradients(
        [](Tape& tape, std::span<const Var> in) {
          const NormedSum out = add_rms_norm(tape, in[0], in[1], in[2], 1e-5);
          return std::vector<Var>{out.sum, out.normed};
        },
        inputs);
    check_gradients(
        [](Tape& tape, std::span<const Var> in) { return add_rms_norm(tape, in[0], in[1], in[2], 1e-5).normed; },
        inputs);
  }
}

// Blocks behind each other: what reaches both inputs, and the sum from two sides, stays apart.
TEST(AddRmsNorm, SharedGradientsStayApart) {
  check_gradients(
      [](Tape& tape, std::span<const Var> in) {
        const NormedSum first = add_rms_norm(tape, in[0], in[1], in[2], 1e-5);
        const NormedSum second = add_rms_norm(tape, first.sum, scale(tape, first.normed, 3), in[2], 1e-5);
        return std::vector<Var>{second.sum, second.normed, add(tape, first.sum, in[1])};
      },
      {random_tensor(memory, {4, 3}, 1), random_tensor(memory, {4, 3}, 2), random_tensor(memory, {3}, 3)});
}

struct Case {
  MemoryPtr on = memory;
  DType stream = DType::F32, update = DType::F32;
  bool reads_sum = true;  // whether the sum gets a gradient elsewhere too
};

/// sum, normed, and the gradients of x, delta and weight.
template <class F>
std::vector<Tensor> values_and_gradients(const Case& c, F&& f) {
  const Shape shape{203, 577};
  Tape tape;
  const Var x = leaf(random_tensor(c.on, shape, 1, 1.0, c.stream));
  const Var delta = leaf(random_tensor(c.on, shape, 2, 1.0, c.update));
  const Var w = leaf(random_tensor(c.on, {shape[1]}, 3, 1.0, sum_dtype(c.stream)));
  const NormedSum out = f(tape, x, delta, w);
  if (c.reads_sum) accumulate(out.sum.slot, random_tensor(c.on, shape, 4, 1.0, c.stream));
  accumulate(out.normed.slot, random_tensor(c.on, shape, 5, 1.0, c.update));
  tape.run();
  return {out.sum.value, out.normed.value, x.slot->grad, delta.slot->grad, w.slot->grad};
}

std::vector<Tensor> fused(const Case& c) {
  return values_and_gradients(c, [](Tape& tape, const Var& x, const Var& delta, const Var& w) {
    return add_rms_norm(tape, x, delta, w, 1e-5);
  });
}

// A recomputed layer adds and norms apart; so does whoever looks at the stream between.
TEST(AddRmsNorm, BitsAreThoseOfAddAndRmsNorm) {
  for (const auto& [stream, update] : {std::pair{DType::F32, DType::F32}, std::pair{DType::F32, DType::BF16},
                                       std::pair{DType::BF16, DType::BF16}, std::pair{DType::F64, DType::F64}})
    for (const bool reads_sum : {false, true}) {
      const Case c{.stream = stream, .update = update, .reads_sum = reads_sum};
      const std::vector<Tensor> one = fused(c);
      const std::vector<Tensor> two =
          values_and_gradients(c, [&](Tape& tape, const Var& x, const Var& delta, const Var& w) {
            const Var sum = add(tape, x, delta);
            return NormedSum{sum, rms_norm(tape, sum, w, 1e-5, c.update)};
          });
      for (std::size_t i = 0; i < one.size(); ++i)
        EXPECT_TRUE(bit_identical(one[i], two[i])) << i << " of " << name_of(stream) << " and " << name_of(update);
    }
}

TEST(AddRmsNorm, ThreadsChangeNoBit) {
  const std::vector<Tensor> one = fused({}), three = fused({.on = Memory::cpu(3)});
  for (std::size_t i = 0; i < one.size(); ++i) EXPECT_TRUE(bit_identical(one[i], three[i])) << i;
}

TEST(AddRmsNorm, TheWeightAloneIsTrained) {
  const Shape shape{40, 5};
  const auto weight_gradient = [&](bool is_alone) {
    Tape tape;
    const auto input = [&](std::uint64_t seed) {
      const Tensor value = random_tensor(memory, shape, seed);
      return is_alone ? constant(value) : leaf(value);
    };
    const Var w = leaf(random_tensor(memory, {5}, 3));
    const NormedSum out = add_rms_norm(tape, input(1), input(2), w, 1e-5);
    EXPECT_EQ(out.sum.slot == nullptr, is_alone);
    accumulate(out.normed.slot, random_tensor(memory, shape, 5));
    tape.run();
    return w.slot->grad;
  };
  EXPECT_TRUE(bit_identical(weight_gradient(true), weight_gradient(false)));
}

TEST(AddRmsNorm, UsesOfTheWeightAreCounted) {
  Parameter weight;
  weight.value = random_tensor(memory, {4}, 3);
  weight.slot = std::make_shared<Slot>();
  weight.slot->parameter = &weight;
  weight.slot->grad = empty_like(weight.value);
  Tape tape;
  std::int64_t done = 0;
  tape.on_parameter_done([&](Parameter&) { ++done; });
  Var x = leaf(random_tensor(memory, {3, 4}, 1));
  for (int block = 0; block < 2; ++block) x = add_rms_norm(tape, x, x, as_var(weight), 1e-5).normed;
  EXPECT_EQ(tape.uses().at(&weight), 2);
  accumulate(x.slot, random_tensor(memory, {3, 4}, 4));
  tape.run();
  EXPECT_EQ(done, 1);
  EXPECT_TRUE(weight.slot->has_grad);
}

TEST(AddRmsNorm, TheSumTakesTheMemoryOfDeltaWhereThatIsNobodysElse) {
  const Var x = leaf(random_tensor(memory, {3, 4}, 1)), w = leaf(random_tensor(memory, {4}, 3));
  const Tensor value = random_tensor(memory, {3, 4}, 2);
  Tape tape;
  Var given = leaf(value.clone());
  const std::byte* place = given.value.raw();
  const NormedSum in_place = add_rms_norm(tape, x, std::move(given), w, 1e-5);
  EXPECT_EQ(in_place.sum.value.raw(), place);
  const Var kept = leaf(value.clone());
  const NormedSum apart = add_rms_norm(tape, x, kept, w, 1e-5);
  EXPECT_TRUE(bit_identical(kept.value, value));
  EXPECT_TRUE(bit_identical(apart.sum.value, in_place.sum.value));
  EXPECT_TRUE(bit_identical(apart.normed.value, in_place.normed.value));
}

TEST(AddRmsNorm, BadInput) {
  Tape tape;
  const auto zeros = [](DType dtype, const Shape& shape) { return constant(Tensor::zeros(memory, dtype, shape)); };
  const auto error_of = [&](const Var& x, const Var& delta, const Var& weight) {
    return [&tape, x, delta, weight] { add_rms_norm(tape, x, delta, weight, 1e-5); };
  };
  const Var x = zeros(DType::F32, {4, 8}), w = zeros(DType::F32, {8});
  EXPECT_THAT(error_of(w, w, w), ThrowsMessage<Error>(HasSubstr("add_rms_norm: x has shape [8], expected [T,C]")));
  EXPECT_THAT(error_of(x, zeros(DType::F32, {4, 7}), w),
              ThrowsMessage<Error>("add_rms_norm: delta has shape [4,7], expected [4,8] as x"));
  EXPECT_THAT(error_of(x, x, zeros(DType::F32, {7})),
              ThrowsMessage<Error>("add_rms_norm: weight has shape [7], expected [8] (x is [4,8])"));
  EXPECT_THAT(error_of(x, zeros(DType::F64, {4, 8}), w),
              ThrowsMessage<Error>("add_rms_norm: delta is float64, expected float32 as x, or bfloat16"));
  EXPECT_THAT(error_of(x, x, zeros(DType::BF16, {8})),
              ThrowsMessage<Error>("add_rms_norm: weight is bfloat16, expected float32 beside x of float32"));
  const Var whole = zeros(DType::I32, {4, 8});
  EXPECT_THAT(error_of(whole, whole, zeros(DType::I32, {8})),
              ThrowsMessage<Error>(HasSubstr("add_rms_norm: dtype is int32")));
}

}  // namespace
}  // namespace limbeck::core
