#include "core/ops/causal_conv.h"

#include <gmock/gmock.h>

#include <cmath>
#include <vector>

#include "tests/support/gradient_check.h"
#include "tests/support/sequences.h"
#include "tests/support/tensors.h"

namespace limbeck::core {
namespace {

using testing::bit_identical, testing::check_gradients, testing::random_tensor, testing::relative_difference;
using testing::DocumentLengths, testing::sequences_of, testing::state_of;
using ::testing::HasSubstr, ::testing::ThrowsMessage;

const auto memory = Memory::cpu(1);

Tensor convolved(const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias, const Sequences& sequences,
                 const std::optional<SequenceState>& state = {}) {
  Tape tape(Tape::Mode::Off);
  return causal_conv(tape, constant(x), constant(weight), bias ? std::optional(constant(*bias)) : std::nullopt,
                     sequences, state)
      .value;
}

/// The definition, in float64.
std::vector<double> naive(const Tensor& x, const Tensor& weight, const Tensor& bias, const DocumentLengths& lengths) {
  const std::int64_t channels = x.shape()[1], taps = weight.shape()[1];
  std::vector<double> y;
  std::int64_t begin = 0;
  for (const auto& sequence : lengths)
    for (const std::int64_t length : sequence) {
      for (std::int64_t t = begin; t < begin + length; ++t)
        for (std::int64_t c = 0; c < channels; ++c) {
          double sum = bias.data<double>()[c];
          for (std::int64_t k = 0; k < taps; ++k)
            if (t - taps + 1 + k >= begin)
              sum += weight.data<double>()[c * taps + k] * x.data<double>()[(t - taps + 1 + k) * channels + c];
          y.push_back(sum / (1 + std::exp(-sum)));
        }
      begin += length;
    }
  return y;
}

TEST(CausalConv, EqualsTheDefinition) {
  for (const auto& lengths :
       {DocumentLengths{{1}}, DocumentLengths{{7}, {1, 3}, {}, {2, 1, 1}}, DocumentLengths{{150}}})
    for (const std::int64_t taps : {1, 2, 4, 8})
      for (const std::int64_t channels : {1, 131}) {
        const Sequences sequences = sequences_of(memory, lengths);
        const Tensor x = random_tensor(memory, {sequences.document.numel(), channels}, 1);
        const Tensor weight = random_tensor(memory, {channels, taps}, 2), bias = random_tensor(memory, {channels}, 3);
        const Tensor expected = Tensor::from<double>(memory, x.shape(), naive(x, weight, bias, lengths));
        EXPECT_LT(relative_difference(convolved(x, weight, bias, sequences), expected), 1e-14);
      }
}

TEST(CausalConv, Gradients) {
  for (const auto& lengths :
       {DocumentLengths{}, DocumentLengths{{1}}, DocumentLengths{{6, 1}, {}, {2}}, DocumentLengths{{40}}})
    for (const bool with_bias : {false, true}) {
      const Sequences sequences = sequences_of(memory, lengths);
      std::vector<Tensor> inputs = {random_tensor(memory, {sequences.document.numel(), 3}, 1),
                                    random_tensor(memory, {3, 4}, 2)};
      if (with_bias) inputs.push_back(random_tensor(memory, {3}, 3));
      check_gradients(
          [&](Tape& tape, std::span<const Var> in) {
            return causal_conv(tape, in[0], in[1], with_bias ? std::optional(in[2]) : std::nullopt, sequences);
          },
          inputs);
    }
}

struct Gradients {
  Tensor y, dx, dweight, dbias;
};
Gradients gradients(const MemoryPtr& on, DType dtype, std::int64_t channels) {
  const Sequences sequences = sequences_of(on, {{70, 3}, {129}, {1}});
  const Shape shape{sequences.document.numel(), channels};
  const auto random = [&](const Shape& of, std::uint64_t seed, DType as) {
    return random_tensor(on, of, seed, 1.0, DType::BF16).to(as);
  };
  Tape tape;
  const Var x = leaf(random(shape, 3, dtype)), weight = leaf(random({channels, 4}, 4, sum_dtype(dtype)));
  const Var bias = leaf(random({channels}, 5, sum_dtype(dtype)));
  const Var y = causal_conv(tape, x, weight, bias, sequences);
  accumulate(y.slot, random(shape, 6, dtype));
  tape.run();
  return {y.value, x.slot->grad, weight.slot->grad, bias.slot->grad};
}

TEST(CausalConv, ThreadsChangeNoBit) {
  const Gradients one = gradients(memory, DType::F32, 300), three = gradients(Memory::cpu(3), DType::F32, 300);
  EXPECT_TRUE(bit_identical(one.y, three.y));
  EXPECT_TRUE(bit_identical(one.dx, three.dx));
  EXPECT_TRUE(bit_identical(one.dweight, three.dweight));
  EXPECT_TRUE(bit_identical(one.dbias, three.dbias));
}

TEST(CausalConv, NarrowTypesAgreeWithFloat64) {
  const Gradients right = gradients(memory, DType::F64, 37);
  for (const auto& [dtype, tolerance] : {std::pair{DType::F32, 1e-6}, std::pair{DType::BF16, 0x1p-8}}) {
    const Gradients found = gradients(memory, dtype, 37);
    EXPECT_LT(relative_difference(found.y.to(DType::F64), right.y), tolerance);
    EXPECT_LT(relative_difference(found.dx.to(DType::F64), right.dx), tolerance);
    EXPECT_LT(relative_difference(found.dweight.to(DType::F64), right.dweight), 1e-6);
    EXPECT_LT(relative_difference(found.dbias.to(DType::F64), right.dbias), 1e-6);
  }
}

// Two texts advance by turns, together with others or alone, each from its own row.
TEST(CausalConv, GoesOnFromAState) {
  for (const std::int64_t taps : {1, 2, 4, 8}) {
    const Tensor x = random_tensor(memory, {40, 5}, 1), weight = random_tensor(memory, {5, taps}, 2);
    const Tensor whole = convolved(x, weight, {}, sequences_of(memory, {{25}, {15}}));
    Tensor rows = random_tensor(memory, {4, taps - 1, 5}, 3);
    const Tensor others = rows.clone();
    rows.rows(3, 1).fill_zero();
    rows.rows(1, 1).fill_zero();
    Tensor parts = empty_like(whole);
    std::int64_t first = 0, second = 25;
    for (const auto& [of_first, of_second] : {std::pair{1, 1}, {1, 2}, {3, 0}, {9, 1}, {0, 4}, {11, 7}}) {
      Tensor joined = Tensor::empty(memory, DType::F64, {of_first + of_second, 5});
      joined.rows(0, of_first).copy_from(x.rows(first, of_first));
      joined.rows(of_first, of_second).copy_from(x.rows(second, of_second));
      const Sequences sequences = sequences_of(memory, {{of_first}, {of_second}});
      const Tensor y = convolved(joined, weight, {}, sequences, state_of(rows, {3, 1}));
      parts.rows(first, of_first).copy_from(y.rows(0, of_first));
      parts.rows(second, of_second).copy_from(y.rows(of_first, of_second));
      first += of_first;
      second += of_second;
    }
    EXPECT_TRUE(bit_identical(parts, whole)) << taps;
    for (std::int64_t k = 0; k + 1 < taps; ++k)
      EXPECT_TRUE(bit_identical(rows.rows(3, 1).reshape({taps - 1, 5}).rows(k, 1), x.rows(25 - taps + 1 + k, 1)));
    for (const std::int64_t slot : {0, 2}) EXPECT_TRUE(bit_identical(rows.rows(slot, 1), others.rows(slot, 1)));
  }
}

// A second document reads nothing of the state, and leaves zeros where it is shorter.
TEST(CausalConv, AStateIsTheFirstDocuments) {
  const Tensor x = random_tensor(memory, {4, 2}, 1), weight = random_tensor(memory, {2, 4}, 2);
  const Tensor rows = random_tensor(memory, {1, 3, 2}, 3);
  const Tensor y = convolved(x, weight, {}, sequences_of(memory, {{2, 2}}), state_of(rows, {0}));
  EXPECT_TRUE(bit_identical(y.rows(2, 2), convolved(x.rows(2, 2), weight, {}, sequences_of(memory, {{2}}))));
  EXPECT_TRUE(bit_identical(rows.reshape({3, 2}).rows(1, 2), x.rows(2, 2)));
  EXPECT_EQ(host_values<double>(rows.reshape({3, 2}).rows(0, 1)), (std::vector<double>{0, 0}));
}

TEST(CausalConv, BadInput) {
  Tape tape;
  const auto zeros = [](const Shape& shape, DType dtype = DType::F32) {
    return constant(Tensor::zeros(memory, dtype, shape));
  };
  const Sequences sequences = sequences_of(memory, {{4}});
  const auto expect = [&](const Var& x, const Var& weight, const std::optional<Var>& bias,
                          const std::optional<SequenceState>& state, const char* message) {
    EXPECT_THAT([&] { causal_conv(tape, x, weight, bias, sequences, state); },
                ThrowsMessage<Error>(HasSubstr(message)));
  };
  expect(zeros({4, 6}), zeros({5, 4}), {}, {},
         "causal_conv: weight has shape [5,4], expected [6,K], K from 1 to 8 (x is [4,6])");
  expect(zeros({4, 6}), zeros({6, 9}), {}, {}, "K from 1 to 8");
  expect(zeros({4, 6}), zeros({6, 4}, DType::F64), {}, {}, "weight is float64, expected float32");
  expect(zeros({4, 6}), zeros({6, 4}), zeros({4}), {}, "bias is float32 [4], expected float32 [6]");
  expect(zeros({5, 6}), zeros({6, 4}), {}, {}, "documents are not int32 [5]");
  expect(zeros({4, 6}), zeros({6, 4}), {}, state_of(zeros({2, 4, 6}).value, {0}),
         "states are float32 [2,4,6], expected float32 [2,3,6]");
  expect(zeros({4, 6}), zeros({6, 4}), {}, state_of(zeros({2, 3, 6}).value, {2}),
         "slot 2 of sequence 0 is not one of the 2 states");
  expect(leaf(zeros({4, 6}).value), zeros({6, 4}), {}, state_of(zeros({2, 3, 6}).value, {1}), "takes no gradient");
}

}  // namespace
}  // namespace limbeck::core
