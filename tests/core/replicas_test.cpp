#include "core/ops/replicas.h"

#include <gmock/gmock.h>

#include "core/ops/add.h"
#include "core/ops/permute.h"
#include "tests/support/gradient_check.h"
#include "tests/support/tensors.h"

namespace limbeck::core {
namespace {

using testing::check_gradients;
using ::testing::ElementsAre;
using testing::random_tensor;
using testing::tensor;

const auto memory = Memory::cpu(2);

TEST(Replicas, DroppedAssignmentsStayDropped) {
  const Tensor selection = tensor<std::int32_t>(memory, {2, 3}, {3, -1, 0, 1, 2, 1});
  const Tensor numbers = tensor<std::int32_t>(memory, {4}, {0, 4, 2, 5});
  EXPECT_THAT(host_values<std::int32_t>(renumbered(selection, numbers)), ElementsAre(5, -1, 0, 4, 2, 4));
}

TEST(Replicas, RowsThatStayAndComeBackHaveTheirGradients) {
  for (const std::int64_t first : {0, 2, 5}) {
    check_gradients([=](Tape& tape, std::span<const Var> in) { return last_rows(tape, in[0], first); },
                    {random_tensor(memory, {5, 3}, 1)});
    // Beside other uses of the same rows, before and behind it.
    check_gradients(
        [=](Tape& tape, std::span<const Var> in) {
          const Var before = scale(tape, in[0], 3);
          const Var stay = last_rows(tape, in[0], first);
          const Var both = add(tape, last_rows(tape, before, first), stay);
          return add(tape, both, last_rows(tape, scale(tape, in[0], 5), first));
        },
        {random_tensor(memory, {5, 3}, 2)});
  }
}

TEST(Replicas, LastRowsAreReplaced) {
  const Tensor x = random_tensor(memory, {4, 2}, 3), rows = random_tensor(memory, {1, 2}, 4);
  const Tensor dy = random_tensor(memory, {4, 2}, 5);
  Tape tape;
  const Var to_x = leaf(x.clone()), to_rows = leaf(rows);
  const Var out = with_last_rows(tape, to_x, to_rows);
  accumulate(out.slot, dy);
  tape.run();
  const Tensor of_x = gradient(to_x.slot, x), of_rows = gradient(to_rows.slot, rows);
  for (std::int64_t i = 0; i < 8; ++i) {
    EXPECT_EQ(out.value.data<double>()[i], i < 6 ? x.data<double>()[i] : rows.data<double>()[i - 6]);
    EXPECT_EQ((i < 6 ? of_x.data<double>()[i] : of_rows.data<double>()[i - 6]), dy.data<double>()[i]);
    EXPECT_EQ(to_x.value.data<double>()[i], x.data<double>()[i]) << "what others refer to is written";
  }
  // What nobody else refers to is not copied.
  Tensor sole = x.clone();
  const void* const place = sole.raw();
  EXPECT_EQ(with_last_rows(tape, constant(std::move(sole)), constant(rows)).value.raw(), place);
}

}  // namespace
}  // namespace limbeck::core
