#include "core/ops/jitter.h"

#include <gmock/gmock.h>

#include "tests/support/gradient_check.h"
#include "tests/support/tensors.h"

namespace limbeck::core {
namespace {

using testing::random_tensor;
using testing::tensor;
using ::testing::ThrowsMessage;

const auto memory = Memory::cpu(2);
const RandomStream noise(5, 9, "layers.3.moe.jitter");

TEST(Jitter, IsUniformAroundOne) {
  Tape tape;
  const std::int64_t tokens = 500, width = 40;
  Tensor ones = Tensor::empty(memory, DType::F64, {tokens, width});
  std::fill_n(ones.mutable_data<double>(), ones.numel(), 1.0);
  Tensor index = Tensor::empty(memory, DType::I64, {tokens});
  for (std::int64_t t = 0; t < tokens; ++t) index.mutable_data<std::int64_t>()[t] = t;
  double sum = 0, squares = 0;
  for (const double r : host_values<double>(jitter(tape, constant(ones), index, 0.1, noise).value)) {
    EXPECT_GE(r, 0.9);
    EXPECT_LT(r, 1.1);
    sum += r - 1;
    squares += (r - 1) * (r - 1);
  }
  const double n = 500 * 40;
  const double variance = 0.1 * 0.1 / 3;  // of a uniform number in [-0.1, 0.1)
  EXPECT_LT(std::abs(sum / n), 5 * std::sqrt(variance / n));
  EXPECT_NEAR(squares / n, variance, 0.03 * variance);
}

TEST(Jitter, FollowsTheTokenWhereverItLies) {
  Tape tape;
  const Tensor x = random_tensor(memory, {3, 4}, 1);
  const Tensor index = tensor<std::int64_t>(memory, {3}, {70, 2, 9});
  const Tensor all = jitter(tape, constant(x), index, 0.5, noise).value;
  const Tensor last = jitter(tape, constant(x.rows(2, 1)), index.rows(2, 1), 0.5, noise).value;
  EXPECT_EQ(host_values<double>(all.rows(2, 1)), host_values<double>(last));
  EXPECT_NE(host_values<double>(all.rows(2, 1)), host_values<double>(x.rows(2, 1)));
  const RandomStream next(5, 10, "layers.3.moe.jitter");
  EXPECT_NE(host_values<double>(all), host_values<double>(jitter(tape, constant(x), index, 0.5, next).value));
}

TEST(Jitter, Gradients) {
  const Tensor index = tensor<std::int64_t>(memory, {3}, {70, 2, 9});
  for (const std::int64_t tokens : {0, 1, 3})
    testing::check_gradients(
        [&](Tape& tape, std::span<const Var> in) { return jitter(tape, in[0], index.rows(0, tokens), 0.5, noise); },
        {random_tensor(memory, {tokens, 5}, 1)});
}

TEST(Jitter, BadInput) {
  Tape tape;
  const Var x = constant(Tensor::zeros(memory, DType::F32, {2, 3}));
  EXPECT_THAT([&] { jitter(tape, x, Tensor::zeros(memory, DType::I64, {3}), 0.1, noise); },
              ThrowsMessage<Error>("jitter: x has shape [2,3] and the indices [3], expected [T,C] and [T]"));
}

}  // namespace
}  // namespace limbeck::core
