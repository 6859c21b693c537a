#include "core/ops/heads.h"

#include <gmock/gmock.h>

#include "tests/support/gradient_check.h"
#include "tests/support/tensors.h"

namespace limbeck::core {
namespace {

using testing::check_gradients;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::random_tensor;
using testing::tensor;
using ::testing::ThrowsMessage;

const auto memory = Memory::cpu(2);

TEST(Heads, AreJoined) {
  Tape tape;
  const Var own = constant(tensor<float>(memory, {2, 4}, {1, 2, 3, 4, 5, 6, 7, 8}));
  const Var common = constant(tensor<float>(memory, {2, 1}, {10, 20}));
  EXPECT_THAT(host_values<float>(join_heads(tape, own, common, 2).value),
              ElementsAre(1, 2, 10, 3, 4, 10, 5, 6, 20, 7, 8, 20));
}

TEST(Heads, Gradients) {
  for (const std::int64_t tokens : {0, 1, 5})
    for (const std::int64_t heads : {1, 3})
      check_gradients([&](Tape& tape, std::span<const Var> in) { return join_heads(tape, in[0], in[1], heads); },
                      {random_tensor(memory, {tokens, heads * 4}, 1), random_tensor(memory, {tokens, 3}, 2)});
}

// A rank of a tensor group may have no heads.
TEST(Heads, ThereMayBeNone) {
  Tape tape;
  const Var own = constant(Tensor::zeros(memory, DType::F32, {2, 0}));
  const Var common = leaf(tensor<float>(memory, {2, 1}, {10, 20}));
  const Var joined = join_heads(tape, own, common, 0);
  EXPECT_EQ(joined.shape(), (Shape{2, 0}));
  accumulate(joined.slot, Tensor::zeros(memory, DType::F32, {2, 0}));
  tape.run();
  EXPECT_THAT(host_values<float>(common.slot->grad), ElementsAre(0, 0));
}

TEST(Heads, AreSetOneBehindTheOther) {
  const Tensor x = tensor<float>(memory, {2, 6}, {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12});
  const Tensor first = heads_first(x, 1, 2, 2);
  EXPECT_EQ(first.shape(), (Shape{4, 2}));
  EXPECT_THAT(host_values<float>(first), ElementsAre(2, 3, 8, 9, 5, 6, 11, 12));
  const Tensor back = Tensor::zeros(memory, DType::F32, {2, 6});
  put_heads(first, 0, 2, back);
  EXPECT_THAT(host_values<float>(back), ElementsAre(2, 3, 0, 5, 6, 0, 8, 9, 0, 11, 12, 0));
}

TEST(Heads, BadInput) {
  Tape tape;
  const Var own = constant(Tensor::zeros(memory, DType::F32, {2, 5}));
  const auto common = [](DType dtype, std::int64_t rows) { return constant(Tensor::zeros(memory, dtype, {rows, 1})); };
  EXPECT_THAT([&] { join_heads(tape, own, common(DType::F32, 2), 2); },
              ThrowsMessage<Error>("join_heads: own parts have shape [2,5], expected [T,2*A]"));
  EXPECT_THAT([&] { join_heads(tape, own, common(DType::F32, 3), 5); }, ThrowsMessage<Error>(HasSubstr("[3,1]")));
  EXPECT_THAT([&] { join_heads(tape, own, common(DType::F64, 2), 5); }, ThrowsMessage<Error>(HasSubstr("float64")));
  EXPECT_THAT([&] { heads_first(own.value, 1, 1, 5); }, ThrowsMessage<Error>(HasSubstr("channels 1 to 2")));
}

}  // namespace
}  // namespace limbeck::core
