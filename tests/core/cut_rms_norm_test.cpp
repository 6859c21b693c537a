#include "core/ops/cut_rms_norm.h"

#include <gmock/gmock.h>

#include "tests/support/gradient_check.h"

namespace limbeck::core {
namespace {

using testing::check_gradients;
using ::testing::HasSubstr;
using testing::random_tensor;
using ::testing::ThrowsMessage;

TEST(CutRmsNorm, GradientsAndBadInput) {
  const auto memory = Memory::cpu(2);
  const auto comm = nn::single_communicators().tensor;
  for (const Shape& shape : {Shape{0, 5}, Shape{1, 1}, Shape{5, 131}, Shape{2, 0}})
    check_gradients(
        [&](Tape& tape, std::span<const Var> in) {
          return cut_rms_norm(tape, in[0], in[1], 2 * shape[1] + 1, 1e-5, *comm);
        },
        {random_tensor(memory, shape, 1), random_tensor(memory, {shape[1]}, 2)});
  Tape tape;
  const Var x = constant(random_tensor(memory, {2, 4}, 1)), weight = constant(random_tensor(memory, {3}, 1));
  EXPECT_THAT([&] { cut_rms_norm(tape, x, weight, 8, 1e-5, *comm); },
              ThrowsMessage<Error>("cut_rms_norm: weight is float64 [3], expected float64 [4] (x is float64 [2,4])"));
  EXPECT_THAT([&] { cut_rms_norm(tape, x, constant(random_tensor(memory, {4}, 1)), 3, 1e-5, *comm); },
              ThrowsMessage<Error>(HasSubstr("4 columns, expected at most the 3 of all ranks")));
}

}  // namespace
}  // namespace limbeck::core
