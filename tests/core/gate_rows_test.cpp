#include "core/ops/gate_rows.h"

#include <gmock/gmock.h>

#include <cmath>

#include "core/ops/offset.h"
#include "tests/support/gradient_check.h"
#include "tests/support/tensors.h"

namespace limbeck::core {
namespace {

using testing::check_gradients;
using ::testing::DoubleNear;
using ::testing::ElementsAre;
using testing::random_tensor;
using testing::tensor;
using ::testing::ThrowsMessage;

const auto memory = Memory::cpu(2);

TEST(GateRows, Values) {
  Tape tape;
  const Var gate = constant(tensor<double>(memory, {2, 1}, {std::log(3.0), 0}));  // 3/4 and 1/2
  const Var x = constant(tensor<double>(memory, {2, 2}, {4, 8, -6, 1}));
  EXPECT_THAT(host_values<double>(gate_rows(tape, gate, x).value),
              ElementsAre(DoubleNear(3, 1e-14), DoubleNear(6, 1e-14), -3, 0.5));
}

TEST(GateRows, Gradients) {
  for (const Shape& shape : {Shape{0, 3}, Shape{1, 1}, Shape{5, 37}})
    check_gradients([](Tape& tape, std::span<const Var> in) { return gate_rows(tape, in[0], in[1]); },
                    {random_tensor(memory, {shape[0], 1}, 1), random_tensor(memory, shape, 2)});
}

TEST(GateRows, RefusesAnotherNumberOfGates) {
  Tape tape;
  const Var gate = constant(random_tensor(memory, {3, 1}, 1)), x = constant(random_tensor(memory, {2, 4}, 2));
  EXPECT_THAT([&] { gate_rows(tape, gate, x); },
              ThrowsMessage<Error>("gate_rows: gate has shape [3,1], expected [T,1] (x is [2,4])"));
}

TEST(Offset, IsAddedAndItsGradientIsHandedOn) {
  Tape tape;
  EXPECT_THAT(host_values<double>(offset(tape, constant(tensor<double>(memory, {3}, {0.5, -1, 2})), 1).value),
              ElementsAre(1.5, 0, 3));
  check_gradients([](Tape& t, std::span<const Var> in) { return offset(t, in[0], 1); },
                  {random_tensor(memory, {7}, 1)});
}

}  // namespace
}  // namespace limbeck::core
