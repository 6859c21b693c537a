#include "core/ops/grouped_linear.h"

#include <gtest/gtest.h>

#include "core/ops/linear.h"
#include "tests/support/gradient_check.h"

namespace limbeck::core {
namespace {

using testing::check_gradients;
using testing::random_tensor;
using testing::relative_difference;

Tensor make_offsets(const MemoryPtr& memory, std::vector<std::int64_t> values) {
  return Tensor::from<std::int64_t>(memory, {static_cast<std::int64_t>(values.size())}, values);
}

TEST(GroupedLinear, EqualsALinearAnExpert) {
  const auto memory = Memory::cpu(1);
  const Tensor x = random_tensor(memory, {9, 5}, 1);
  const Tensor w = random_tensor(memory, {3, 4, 5}, 2);
  Tape tape;
  const Tensor y = grouped_linear(tape, constant(x), constant(w), make_offsets(memory, {0, 2, 2, 7})).value;
  const auto expert = [&](std::int64_t e, std::int64_t first, std::int64_t count) {
    return linear(tape, constant(x.rows(first, count)), constant(w.rows(e, 1).reshape({4, 5}))).value;
  };
  EXPECT_LE(relative_difference(y.rows(0, 2), expert(0, 0, 2)), 1e-15);
  EXPECT_LE(relative_difference(y.rows(2, 5), expert(2, 2, 5)), 1e-15);
  EXPECT_EQ(host_values<double>(y.rows(7, 2)), std::vector<double>(8, 0.0));
}

TEST(GroupedLinear, GradientsEqualDifferences) {
  for (const int threads : {1, 2}) {
    const auto memory = Memory::cpu(threads);
    const auto run = [&](std::int64_t rows, std::vector<std::int64_t> values) {
      const Tensor offsets = make_offsets(memory, values);
      const auto experts = static_cast<std::int64_t>(values.size()) - 1;
      check_gradients([&](Tape& tape, std::span<const Var> in) { return grouped_linear(tape, in[0], in[1], offsets); },
                      {random_tensor(memory, {rows, 3}, 1), random_tensor(memory, {experts, 2, 3}, 2)});
    };
    run(0, {0, 0, 0});           // no rows at all
    run(1, {0, 1});              // one row, one expert
    run(7, {0, 0, 4, 4, 5, 5});  // experts without rows at either end and between; rows beyond the last
  }
}

// Bfloat16 weights have the values and the gradients of their widened copies. The second weight is wider than a tile.
TEST(GroupedLinear, WidensBfloat16Weights) {
  for (const auto& [out, in] : {std::pair<std::int64_t, std::int64_t>(4, 5), {500, 400}})
    for (const int threads : {1, 2}) {
      const auto memory = Memory::cpu(threads);
      const Tensor narrow = random_tensor(memory, {3, out, in}, 2).to(DType::BF16);
      const auto run = [&, rows = in, columns = out](const Tensor& weight) {
        const Var x = leaf(random_tensor(memory, {9, rows}, 1)), w = leaf(weight);
        Tape tape;
        const Var y = grouped_linear(tape, x, w, make_offsets(memory, {0, 2, 2, 7}));
        accumulate(y.slot, random_tensor(memory, {9, columns}, 3));
        tape.run();
        return std::vector<Tensor>{y.value, x.slot->grad, w.slot->grad};
      };
      const auto found = run(narrow), expected = run(narrow.to(DType::F64));
      for (std::size_t i = 0; i < 3; ++i) {
        EXPECT_EQ(found[i].dtype(), DType::F64);
        EXPECT_LE(relative_difference(found[i], expected[i]), 1e-13) << i;
      }
    }
}

TEST(GroupedLinear, NamesWhatDoesNotFit) {
  const auto memory = Memory::cpu(1);
  Tape tape;
  const Var x = leaf(random_tensor(memory, {4, 3}, 1));
  const Var w = leaf(random_tensor(memory, {2, 5, 3}, 1));
  try {
    grouped_linear(tape, x, w, make_offsets(memory, {0, 4}));
    FAIL();
  } catch (const Error& e) {
    EXPECT_STREQ(e.what(), "grouped_linear: offsets are int64 [2], expected int64 [3]");
  }
  EXPECT_THROW(grouped_linear(tape, x, leaf(random_tensor(memory, {2, 3, 5}, 1)), make_offsets(memory, {0, 2, 4})),
               Error);
}

}  // namespace
}  // namespace limbeck::core
