#include "core/ops/layer_norm.h"

#include <gmock/gmock.h>

#include "tests/core/golden_ops.h"
#include "tests/support/tensors.h"

namespace limbeck::core {
namespace {

using testing::bit_identical;
using testing::check_gradients;
using testing::golden_ops;
using testing::golden_tensor;
using ::testing::HasSubstr;
using testing::random_tensor;
using testing::relative_difference;
using ::testing::ThrowsMessage;

const auto memory = Memory::cpu(1);

// Rows of small numbers, of large ones and of equal ones, whose deviation is that of eps alone: there a float32's mean
// is exact.
TEST(LayerNorm, EqualsTheDefinition) {
  const Shape matrix{4, 6};
  const auto y_values = golden_ops().at("y").get<std::vector<double>>();
  for (const DType dtype : {DType::F64, DType::F32}) {
    const auto row = [&](std::int64_t t) {
      return leaf(Tensor::from<double>(memory, {6}, std::span(y_values).subspan(6 * t, 6)).to(dtype));
    };
    const Var x = leaf(golden_tensor(memory, "x", matrix, dtype)), weight = row(0), bias = row(1);
    Tape tape;
    const Var y = layer_norm(tape, x, weight, bias, 1e-5);
    accumulate(y.slot, golden_tensor(memory, "upstream", matrix, dtype));
    tape.run();
    const double tolerance = dtype == DType::F64 ? 1e-13 : 1e-6;
    const auto expect = [&](const Tensor& found, const char* name) {
      EXPECT_LT(relative_difference(found, golden_tensor(memory, name, found.shape(), dtype)), tolerance) << name;
    };
    expect(y.value, "layer_norm");
    expect(x.slot->grad, "layer_norm_dx");
    expect(weight.slot->grad, "layer_norm_dweight");
    expect(bias.slot->grad, "layer_norm_dbias");
  }
}

Var apply(Tape& tape, std::span<const Var> in) { return layer_norm(tape, in[0], in[1], in[2], 1e-5); }

TEST(LayerNorm, Gradients) {
  for (const Shape& shape : {Shape{0, 5}, Shape{1, 7}, Shape{5, 131}, Shape{3, 16}, Shape{40, 3}, Shape{2, 0}})
    check_gradients(apply, {random_tensor(memory, shape, 1), random_tensor(memory, {shape[1]}, 2),
                            random_tensor(memory, {shape[1]}, 3)});
  for (const std::vector<bool>& which : {std::vector{true, false, false}, {false, true, false}, {false, false, true}})
    check_gradients(apply,
                    {random_tensor(memory, {4, 6}, 1), random_tensor(memory, {6}, 2), random_tensor(memory, {6}, 3)},
                    {.differentiate = which});
}

struct Gradients {
  Tensor y, dx, dweight, dbias;
};

Gradients gradients(const MemoryPtr& on, DType dtype, std::optional<DType> result = {}) {
  Tape tape;
  const Var x = leaf(random_tensor(on, {200, 577}, 3, 1.0, dtype));
  const Var weight = leaf(random_tensor(on, {577}, 4, 1.0, dtype)),
            bias = leaf(random_tensor(on, {577}, 5, 1.0, dtype));
  const Var y = layer_norm(tape, x, weight, bias, 1e-5, result);
  accumulate(y.slot, random_tensor(on, {200, 577}, 6).to(result.value_or(dtype)));
  tape.run();
  return {y.value, x.slot->grad, weight.slot->grad, bias.slot->grad};
}

TEST(LayerNorm, Float32AgreesWithFloat64AndBfloat16BesideItIsRounded) {
  const Gradients narrow = gradients(memory, DType::F32), wide = gradients(memory, DType::F64);
  EXPECT_LT(relative_difference(narrow.y.to(DType::F64), wide.y), 1e-6);
  EXPECT_LT(relative_difference(narrow.dx.to(DType::F64), wide.dx), 1e-6);
  EXPECT_LT(relative_difference(narrow.dweight.to(DType::F64), wide.dweight), 1e-6);
  EXPECT_LT(relative_difference(narrow.dbias.to(DType::F64), wide.dbias), 1e-6);
  const Gradients rounded = gradients(memory, DType::F32, DType::BF16);
  EXPECT_TRUE(bit_identical(rounded.y, narrow.y.to(DType::BF16)));
  EXPECT_EQ(rounded.dx.dtype(), DType::F32);
  EXPECT_LT(relative_difference(rounded.dx, narrow.dx), 0x1p-8);
}

TEST(LayerNorm, ThreadsChangeNoBit) {
  const Gradients alone = gradients(memory, DType::F32), shared = gradients(Memory::cpu(3), DType::F32);
  EXPECT_TRUE(bit_identical(alone.y, shared.y));
  EXPECT_TRUE(bit_identical(alone.dx, shared.dx));
  EXPECT_TRUE(bit_identical(alone.dweight, shared.dweight));
  EXPECT_TRUE(bit_identical(alone.dbias, shared.dbias));
}

TEST(LayerNorm, BadInput) {
  Tape tape;
  const auto zeros = [](DType dtype, const Shape& shape) { return constant(Tensor::zeros(memory, dtype, shape)); };
  const auto error_of = [&](DType dtype, const Shape& x, const Var& weight, const Var& bias) {
    return [=, &tape] { layer_norm(tape, zeros(dtype, x), weight, bias, 1e-5); };
  };
  const Var eight = zeros(DType::F32, {8});
  EXPECT_THAT(error_of(DType::F32, {4, 8}, zeros(DType::F32, {7}), eight),
              ThrowsMessage<Error>("layer_norm: weight has shape [7], expected [8] (x is [4,8])"));
  EXPECT_THAT(error_of(DType::F32, {4, 8}, eight, zeros(DType::F32, {1, 8})),
              ThrowsMessage<Error>("layer_norm: bias has shape [1,8], expected [8] (x is [4,8])"));
  EXPECT_THAT(error_of(DType::F32, {8}, eight, eight), ThrowsMessage<Error>(HasSubstr("expected [T,C]")));
  EXPECT_THAT(error_of(DType::BF16, {4, 8}, eight, zeros(DType::BF16, {8})),
              ThrowsMessage<Error>("layer_norm: bias is bfloat16, expected float32 beside x of bfloat16"));
  EXPECT_THAT(error_of(DType::I32, {4, 8}, zeros(DType::I32, {8}), zeros(DType::I32, {8})),
              ThrowsMessage<Error>(HasSubstr("layer_norm: dtype is int32")));
}

}  // namespace
}  // namespace limbeck::core
