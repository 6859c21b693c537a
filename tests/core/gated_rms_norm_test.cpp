#include "core/ops/gated_rms_norm.h"

#include <gmock/gmock.h>

#include <cmath>

#include "tests/support/gradient_check.h"
#include "tests/support/tensors.h"

namespace limbeck::core {
namespace {

using testing::bit_identical, testing::check_gradients, testing::random_tensor, testing::relative_difference;
using ::testing::DoubleNear, ::testing::ElementsAre, ::testing::HasSubstr, ::testing::ThrowsMessage;
using testing::tensor;

const auto memory = Memory::cpu(1);

TEST(GatedRmsNorm, Values) {
  Tape tape;
  const Var y = constant(tensor<double>(memory, {1, 4}, {3, 4, 1, 0})),
            z = constant(tensor<double>(memory, {1, 4}, {1, 1, 2, 5}));
  const Var weight = constant(tensor<double>(memory, {4}, {1, 10, 1, 1}));
  const double one = 1 / (1 + std::exp(-1.0)), two = 2 / (1 + std::exp(-2.0));
  const double r = 1 / std::sqrt(12.5 * one * one + 0.5), s = 1 / std::sqrt(two * two / 2 + 0.5);
  EXPECT_THAT(
      host_values<double>(gated_rms_norm(tape, y, z, weight, 2, 0.5).value),
      ElementsAre(DoubleNear(3 * one * r, 1e-14), DoubleNear(40 * one * r, 1e-14), DoubleNear(two * s, 1e-14), 0));
}

TEST(GatedRmsNorm, Gradients) {
  for (const auto& [rows, groups, width] : {std::tuple{0, 2, 3}, {1, 1, 1}, {3, 3, 5}, {2, 1, 131}, {2, 40, 4}}) {
    const Shape shape{rows, groups * width};
    check_gradients(
        [&, groups = groups](Tape& tape, std::span<const Var> in) {
          return gated_rms_norm(tape, in[0], in[1], in[2], groups, 1e-5);
        },
        {random_tensor(memory, shape, 1), random_tensor(memory, shape, 2), random_tensor(memory, {shape[1]}, 3)});
  }
}

struct Gradients {
  Tensor u, dy, dz, dweight;
};
Gradients gradients(const MemoryPtr& on, DType dtype, bool delay = false) {
  const Shape shape{150, 3 * 130};
  const auto random = [&](const Shape& of, std::uint64_t seed, DType as) {
    return random_tensor(on, of, seed, 1.0, DType::BF16).to(as);
  };
  Tape tape;
  if (delay) tape.set_weight_parts(Tape::WeightParts::Queued);
  const Var y = leaf(random(shape, 1, dtype)), z = leaf(random(shape, 2, dtype));
  const Var weight = leaf(random({shape[1]}, 3, sum_dtype(dtype)));
  const Var u = gated_rms_norm(tape, y, z, weight, 3, 1e-5);
  accumulate(u.slot, random(shape, 4, dtype));
  tape.run();
  tape.run_weight_parts();
  return {u.value, y.slot->grad, z.slot->grad, weight.slot->grad};
}

TEST(GatedRmsNorm, ThreadsAndDelaysChangeNoBit) {
  const Gradients one = gradients(memory, DType::F32);
  for (const Gradients& other : {gradients(Memory::cpu(3), DType::F32), gradients(memory, DType::F32, true)}) {
    EXPECT_TRUE(bit_identical(one.u, other.u));
    EXPECT_TRUE(bit_identical(one.dy, other.dy));
    EXPECT_TRUE(bit_identical(one.dz, other.dz));
    EXPECT_TRUE(bit_identical(one.dweight, other.dweight));
  }
}

TEST(GatedRmsNorm, NarrowTypesAgreeWithFloat64) {
  const Gradients right = gradients(memory, DType::F64);
  for (const auto& [dtype, tolerance] : {std::pair{DType::F32, 1e-6}, std::pair{DType::BF16, 0x1p-8}}) {
    const Gradients found = gradients(memory, dtype);
    EXPECT_LT(relative_difference(found.u.to(DType::F64), right.u), tolerance);
    EXPECT_LT(relative_difference(found.dy.to(DType::F64), right.dy), tolerance);
    EXPECT_LT(relative_difference(found.dz.to(DType::F64), right.dz), tolerance);
    EXPECT_LT(relative_difference(found.dweight.to(DType::F64), right.dweight), 1e-6);
  }
}

TEST(GatedRmsNorm, BadInput) {
  Tape tape;
  const auto zeros = [](const Shape& shape) { return constant(Tensor::zeros(memory, DType::F32, shape)); };
  const auto expect = [&](const Var& y, const Var& z, const Var& weight, std::int64_t groups, const char* message) {
    EXPECT_THAT([&] { gated_rms_norm(tape, y, z, weight, groups, 1e-5); }, ThrowsMessage<Error>(HasSubstr(message)));
  };
  expect(zeros({4, 6}), zeros({4, 5}), zeros({6}), 1,
         "gated_rms_norm: z is float32 [4,5], expected float32 [4,6] as y");
  expect(zeros({4, 6}), zeros({4, 6}), zeros({5}), 1, "weight is float32 [5], expected float32 [6] (y is [4,6])");
  expect(zeros({4, 6}), zeros({4, 6}), zeros({6}), 4, "4 groups do not divide 6 channels");
}

}  // namespace
}  // namespace limbeck::core
