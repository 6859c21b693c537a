#include "core/ops/rms_norm.h"

#include <gmock/gmock.h>

#include <cmath>

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

TEST(RmsNorm, Values) {
  Tape tape;
  const Var x = constant(tensor<double>(memory, {2, 2}, {3, 4, 0, 0}));
  const Var w = constant(tensor<double>(memory, {2}, {1, 10}));
  const double r = 1 / std::sqrt(12.5 + 0.5);
  EXPECT_THAT(host_values<double>(rms_norm(tape, x, w, 0.5).value),
              ElementsAre(DoubleNear(3 * r, 1e-15), DoubleNear(40 * r, 1e-14), 0, 0));
}

TEST(RmsNorm, Gradients) {
  for (const Shape& shape : {Shape{0, 5}, Shape{1, 1}, Shape{1, 7}, Shape{5, 131}, Shape{3, 16}, Shape{2, 0}}) {
    check_gradients([](Tape& tape, std::span<const Var> in) { return rms_norm(tape, in[0], in[1], 1e-5); },
                    {random_tensor(memory, shape, 1), random_tensor(memory, {shape[1]}, 2)});
  }
}

struct Gradients {
  Tensor y, dx, dweight;
};

Gradients gradients(const MemoryPtr& on, DType dtype, std::int64_t rows, std::int64_t width, bool delay = false) {
  Tape tape;
  if (delay) tape.set_weight_parts(Tape::WeightParts::Queued);
  const Var x = leaf(random_tensor(on, {rows, width}, 3, 1.0, dtype));
  const Var w = leaf(random_tensor(on, {width}, 4, 1.0, dtype));
  const Var y = rms_norm(tape, x, w, 1e-5);
  accumulate(y.slot, random_tensor(on, {rows, width}, 5, 1.0, dtype));
  tape.run();
  tape.run_weight_parts();
  return {y.value, x.slot->grad, w.slot->grad};
}

TEST(RmsNorm, Float32AgreesWithFloat64) {
  const Gradients narrow = gradients(memory, DType::F32, 300, 577), wide = gradients(memory, DType::F64, 300, 577);
  EXPECT_LT(testing::relative_difference(narrow.y.to(DType::F64), wide.y), 1e-6);
  EXPECT_LT(testing::relative_difference(narrow.dx.to(DType::F64), wide.dx), 1e-6);
  EXPECT_LT(testing::relative_difference(narrow.dweight.to(DType::F64), wide.dweight), 1e-6);
}

TEST(RmsNorm, ThreadsChangeNoBitOfTheWeightGradient) {
  EXPECT_TRUE(bit_identical(gradients(memory, DType::F32, 200, 577).dweight,
                            gradients(Memory::cpu(3), DType::F32, 200, 577).dweight));
}

TEST(RmsNorm, DelayedWeightPartsChangeNoBit) {
  const Gradients now = gradients(memory, DType::F32, 200, 577), later = gradients(memory, DType::F32, 200, 577, true);
  EXPECT_TRUE(bit_identical(now.dx, later.dx));
  EXPECT_TRUE(bit_identical(now.dweight, later.dweight));
}

TEST(RmsNorm, BadInput) {
  Tape tape;
  const auto zeros = [](DType dtype, const Shape& shape) { return constant(Tensor::zeros(memory, dtype, shape)); };
  EXPECT_THAT(
      [&] {
        rms_norm(tape, zeros(DType::F32, {4, 768}), zeros(DType::F32, {512}), 1e-5);
      },
      ThrowsMessage<Error>("rms_norm: weight has shape [512], expected [768] (x is [4,768])"));
  EXPECT_THAT([&] { rms_norm(tape, zeros(DType::F32, {768}), zeros(DType::F32, {768}), 1e-5); },
              ThrowsMessage<Error>(HasSubstr("expected [T,C]")));
  EXPECT_THAT(
      [&] {
        rms_norm(tape, zeros(DType::F32, {4, 8}), zeros(DType::F64, {8}), 1e-5);
      },
      ThrowsMessage<Error>(HasSubstr("weight is float64, expected float32")));
  EXPECT_THAT(
      [&] {
        rms_norm(tape, zeros(DType::I32, {4, 8}), zeros(DType::I32, {8}), 1e-5);
      },
      ThrowsMessage<Error>(HasSubstr("rms_norm: dtype is int32")));
}

// Heads side by side are as rows below one another.
TEST(RmsNorm, OfPartsOfARow) {
  const Tensor x = random_tensor(memory, {5, 3 * 8}, 1), weight = random_tensor(memory, {8}, 2);
  Tape tape;
  const Tensor parts = rms_norm(tape, constant(x), constant(weight), 1e-5).value;
  const Tensor rows = rms_norm(tape, constant(x.reshape({15, 8})), constant(weight), 1e-5).value;
  EXPECT_EQ(parts.shape(), x.shape());
  EXPECT_EQ(host_values<double>(parts), host_values<double>(rows));
  check_gradients([](Tape& t, std::span<const Var> in) { return rms_norm(t, in[0], in[1], 1e-5); }, {x, weight});
}

}  // namespace
}  // namespace limbeck::core
