#include "core/ops/squared_error.h"

#include <gmock/gmock.h>

#include "tests/core/golden_ops.h"
#include "tests/support/tensors.h"

namespace limbeck::core {
namespace {

using testing::check_gradients;
using testing::random_tensor;
using ::testing::ThrowsMessage;

const auto memory = Memory::cpu(2);

TEST(SquaredError, Golden) {
  testing::expect_golden(memory, "mean_squared_error", "mean_squared_error_dx", [](Tape& tape, const Var& x) {
    return mean_squared_error(tape, x, constant(testing::golden_tensor(memory, "y", x.shape(), x.value.dtype())));
  });
}

TEST(SquaredError, Gradients) {
  for (const Shape& shape : {Shape{0, 5}, Shape{1, 1}, Shape{5, 13}})
    check_gradients([](Tape& tape, std::span<const Var> in) { return mean_squared_error(tape, in[0], in[1], 9); },
                    {random_tensor(memory, shape, 1), random_tensor(memory, shape, 2)});
  check_gradients([](Tape& tape, std::span<const Var> in) { return mean_squared_error(tape, in[0], in[1]); },
                  {random_tensor(memory, {3, 3}, 1), random_tensor(memory, {3, 3}, 2)});
  check_gradients([](Tape& tape, std::span<const Var> in) { return mean_squared_error(tape, in[0], in[0]); },
                  {random_tensor(memory, {3, 3}, 1)});
}

TEST(SquaredError, BadInput) {
  Tape tape;
  const auto zeros = [](DType dtype, const Shape& shape) { return constant(Tensor::zeros(memory, dtype, shape)); };
  EXPECT_THAT(
      [&] {
        mean_squared_error(tape, zeros(DType::F32, {2, 3}), zeros(DType::F32, {3, 2}));
      },
      ThrowsMessage<Error>("mean_squared_error: b has shape [3,2], expected [2,3] as a"));
  EXPECT_THAT([&] { mean_squared_error(tape, zeros(DType::F32, {2}), zeros(DType::F64, {2})); },
              ThrowsMessage<Error>("mean_squared_error: b is float64, expected float32 as a"));
  EXPECT_THAT([&] { mean_squared_error(tape, zeros(DType::F32, {0}), zeros(DType::F32, {0})); },
              ThrowsMessage<Error>("mean_squared_error: the mean is over 0 elements, expected one or more"));
}

}  // namespace
}  // namespace limbeck::core
