#include "core/ops/fp8_product.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "core/ops/linear.h"
#include "tests/support/gradient_check.h"
#include "tests/support/tensors.h"

namespace limbeck::core {
namespace {

using kernels::e4m3, kernels::Transpose;
using testing::random_tensor;

constexpr std::int64_t rows = 5, out = 150, in = 290;

/// x rounded to FP8 by blocks of `tall` rows and 128 columns, by the definition.
std::vector<double> rounded(const Tensor& x, std::int64_t tall) {
  const std::vector<float> values = host_values<float>(x.to(DType::F32));
  const std::int64_t height = x.shape()[0], width = x.shape()[1];
  std::vector<double> result(values.size());
  for (std::int64_t row = 0; row < height; row += tall)
    for (std::int64_t column = 0; column < width; column += 128) {
      const auto for_each = [&](auto&& f) {
        for (std::int64_t r = row; r < std::min(height, row + tall); ++r)
          for (std::int64_t c = column; c < std::min(width, column + 128); ++c) f(r * width + c);
      };
      float greatest = 0;
      for_each([&](std::int64_t i) { greatest = std::max(greatest, std::abs(values[i])); });
      const float scale = greatest / 448, inverse = 1 / scale;
      for_each([&](std::int64_t i) {
        result[i] = static_cast<double>(static_cast<float>(e4m3(values[i] * inverse))) * static_cast<double>(scale);
      });
    }
  return result;
}

/// [m,n] = a [m,k] b, of b [n,k] (transposed) or [k,n].
std::vector<double> matrix_product(const std::vector<double>& a, const std::vector<double>& b, std::int64_t m,
                                   std::int64_t n, std::int64_t k, bool is_transposed) {
  std::vector<double> result;
  for (std::int64_t i = 0; i < m; ++i)
    for (std::int64_t j = 0; j < n; ++j) {
      double sum = 0;
      for (std::int64_t l = 0; l < k; ++l) sum += a[i * k + l] * (is_transposed ? b[j * k + l] : b[l * n + j]);
      result.push_back(sum);
    }
  return result;
}

void expect_bf16(const Tensor& found, const std::vector<double>& expected) {
  ASSERT_EQ(found.dtype(), DType::BF16);
  const std::vector<float> values = host_values<float>(found.to(DType::F32));
  ASSERT_EQ(values.size(), expected.size());
  for (std::size_t i = 0; i < values.size(); ++i)
    ASSERT_NEAR(static_cast<double>(values[i]), expected[i], 0x1p-8 * std::abs(expected[i]) + 1e-4) << i;
}

class Fp8Product : public ::testing::TestWithParam<DType> {
 protected:
  struct Results {
    Tensor y, dx, dw;
  };
  Results run(Products products) const {
    const Var input = leaf(x), trained = leaf(weight);
    Tape tape;
    const Var y = linear(tape, input, trained, products);
    accumulate(y.slot, dy);
    tape.run();
    return {y.value, input.slot->grad, trained.slot->grad};
  }

  MemoryPtr memory = Memory::cpu(1);
  Tensor x = random_tensor(memory, {rows, in}, 1).to(DType::BF16);
  Tensor dy = random_tensor(memory, {rows, out}, 2).to(DType::BF16);
  Tensor weight = random_tensor(memory, {out, in}, 3).to(GetParam());
};

// dx sums over `out`: its rows have other blocks, the weight the same ones.
TEST_P(Fp8Product, IsOfTheForwardAndTheInputsGradient) {
  const Results plain = run(Products::AsActivations), fp8 = run(Products::Fp8);
  const std::vector<double> w = rounded(weight, 128);
  expect_bf16(fp8.y, matrix_product(rounded(x, 1), w, rows, out, in, true));
  expect_bf16(fp8.dx, matrix_product(rounded(dy, 1), w, rows, in, out, false));
  EXPECT_TRUE(testing::bit_identical(fp8.dw, plain.dw));
  EXPECT_FALSE(testing::bit_identical(fp8.y, plain.y));
  EXPECT_FALSE(testing::bit_identical(fp8.dx, plain.dx));
}

TEST_P(Fp8Product, AddsToAGradientThatIsThere) {
  const Var input = leaf(x), trained = leaf(weight);
  Tape tape;
  for (int i = 0; i < 2; ++i) accumulate(linear(tape, input, trained, Products::Fp8).slot, dy);
  tape.run();
  std::vector<double> twice = matrix_product(rounded(dy, 1), rounded(weight, 128), rows, in, out, false);
  for (double& value : twice) value *= 2;
  const std::vector<float> found = host_values<float>(input.slot->grad.to(DType::F32));
  for (std::size_t i = 0; i < found.size(); ++i)  // rounded twice
    ASSERT_NEAR(static_cast<double>(found[i]), twice[i], 0x1p-7 * std::abs(twice[i]) + 1e-4) << i;
}

TEST_P(Fp8Product, OfNoRowsIsNothing) {
  Tensor y = Tensor::empty(memory, DType::BF16, {0, out});
  fp8_product("test", Tensor::empty(memory, DType::BF16, {0, in}), Transpose::Yes, weight, 0, y);
}

INSTANTIATE_TEST_SUITE_P(Weights, Fp8Product, ::testing::Values(DType::F32, DType::BF16));

class Fp8Weights : public ::testing::Test {
 protected:
  std::vector<float> product_now() const {
    Tensor y = Tensor::empty(memory, DType::F32, {rows, out});
    fp8_product("test", x, Transpose::Yes, weight, 0, y);
    return host_values<float>(y);
  }

  MemoryPtr memory = Memory::cpu(1);
  Tensor x = random_tensor(memory, {rows, in}, 1).to(DType::BF16);
  Tensor weight = random_tensor(memory, {out, in}, 3, 1, DType::F32);
};

TEST_F(Fp8Weights, AreMadeOnceForAVersion) {
  const Fp8Weight first = fp8_weight(weight), second = fp8_weight(weight);
  EXPECT_EQ(first.forward.values, second.forward.values);
  EXPECT_EQ(first.backward.scales, second.backward.scales);
  const std::vector<float> before = product_now();
  // What is written behind the storage's back is not seen: nothing is made anew.
  const_cast<float*>(weight.data<float>())[0] += 1;
  EXPECT_EQ(product_now(), before);
  weight.mutable_data<float>();
  EXPECT_NE(product_now(), before);
}

TEST_F(Fp8Weights, TakeTwoBytesAnElementUntilTheyAreWritten) {
  const std::int64_t before = memory->statistics().used_bytes;
  fp8_weight(weight);
  const std::int64_t taken = memory->statistics().used_bytes - before;
  EXPECT_GE(taken, 2 * out * in);
  EXPECT_LE(taken, 2 * out * in + 8192);
  weight.mutable_data<float>();
  fp8_weight(weight);
  EXPECT_EQ(memory->statistics().used_bytes - before, taken);
}

TEST_F(Fp8Weights, AreRefusedByName) {
  const auto multiply = [&](DType activations, const Tensor& w) {
    Tape tape;
    linear(tape, constant(random_tensor(memory, {rows, 32}, 1).to(activations)), constant(w), Products::Fp8);
  };
  const auto says = [](const char* words) { return ::testing::ThrowsMessage<Error>(words); };
  const Tensor w = random_tensor(memory, {out, 32}, 3, 1, DType::F32);
  EXPECT_THAT([&] { multiply(DType::F32, w); },
              says("linear: activations are float32, expected bfloat16 for products in FP8"));
  EXPECT_THAT(
      [&] {
        multiply(DType::BF16, Tensor::empty(memory, DType::Q8_0, {out, 32}));
      },
      says("linear: weight is Q8_0, expected float32 or bfloat16 for products in FP8"));
}

}  // namespace
}  // namespace limbeck::core
