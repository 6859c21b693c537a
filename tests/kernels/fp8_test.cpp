// e4m3 against PyTorch's table, blocks against their definition, products against float64 sums of their factors.
#include "kernels/fp8.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>
#include <utility>
#include <vector>

#include "kernels/cpu.h"
#include "tests/support/bf16_values.h"
#include "tests/support/teacher_file.h"

namespace limbeck::kernels {
namespace {

using testing::random_bf16;

e4m3 code(int bits) {
  e4m3 x;
  x.bits = static_cast<std::uint8_t>(bits);
  return x;
}

const nlohmann::json& golden() {
  static const nlohmann::json golden = nlohmann::json::parse(std::ifstream(testing::golden_path("e4m3/e4m3.json")));
  return golden;
}

TEST(E4m3, HasTheValuesOfPyTorch) {
  for (int bits = 0; bits < 256; ++bits) {
    const auto value = static_cast<float>(code(bits));
    if (golden()["values"][bits].is_null())
      EXPECT_TRUE(std::isnan(value)) << bits;
    else
      EXPECT_EQ(std::bit_cast<std::uint32_t>(value),
                std::bit_cast<std::uint32_t>(golden()["values"][bits].get<float>()))
          << bits;
  }
}

TEST(E4m3, RoundsAsPyTorch) {
  const auto bits = golden()["bits"].get<std::vector<std::uint32_t>>();
  const auto codes = golden()["codes"].get<std::vector<int>>();
  ASSERT_GT(bits.size(), 900U);
  for (std::size_t i = 0; i < bits.size(); ++i)
    ASSERT_EQ(e4m3(std::bit_cast<float>(bits[i])).bits, codes[i]) << std::bit_cast<float>(bits[i]);
  for (const float nan : {std::nanf(""), -std::nanf("")}) EXPECT_EQ(e4m3(nan).bits & 0x7f, 0x7f);
}

struct Extents {
  std::int64_t rows, k;
};
constexpr Extents sizes[] = {{0, 5}, {5, 0}, {1, 1}, {3, 130}, {129, 128}, {200, 257}, {2, 600}};

/// Of a matrix [rows,k], the part that a block of `tall` rows and 128 columns has.
template <class T>
float greatest_of(const std::vector<T>& x, const Extents& e, std::int64_t tall, std::int64_t i, std::int64_t j) {
  float greatest = 0;
  for (std::int64_t r = i * tall; r < std::min(e.rows, (i + 1) * tall); ++r)
    for (std::int64_t c = j * 128; c < std::min(e.k, (j + 1) * 128); ++c)
      greatest = std::max(greatest, std::abs(as<float>(x[r * e.k + c])));
  return greatest;
}

struct Quantised {
  std::vector<e4m3> values, transposed = {};
  std::vector<float> scales, transposed_scales = {};
};

Quantised rows_of(const std::vector<bf16>& x, const Extents& e, int threads = 1) {
  Quantised q{.values = std::vector<e4m3>(x.size()), .scales = std::vector<float>(num_row_scales(e.rows, e.k))};
  quantise_rows(make_cpu(threads), e.rows, e.k, x.data(), q.values.data(), q.scales.data());
  return q;
}
template <class W>
Quantised blocks_of(const std::vector<W>& w, const Extents& e, int threads = 1) {
  constexpr float unwritten = -7;
  Quantised q{.values = std::vector<e4m3>(w.size()),
              .transposed = std::vector<e4m3>(w.size()),
              .scales = std::vector<float>(num_block_scales(e.rows, e.k), unwritten),
              .transposed_scales = std::vector<float>(num_block_scales(e.k, e.rows), unwritten)};
  quantise_blocks(make_cpu(threads), e.rows, e.k, w.data(), q.values.data(), q.scales.data(), q.transposed.data(),
                  q.transposed_scales.data());
  return q;
}

// Each value times its scale is within half a step of e4m3 of what it was: a 16th of it, or of the least normal number.
void expect_near(float code_value, float scale, float x) {
  EXPECT_LE(std::abs(code_value * scale - x), std::max(std::abs(x) / 16, scale * 0x1p-10F) * 1.0001F);
}

TEST(Fp8Rows, HaveAScaleForEach128) {
  for (const Extents& e : sizes) {
    const auto x = random_bf16(e.rows * e.k, 1);
    const Quantised q = rows_of(x, e);
    for (std::int64_t r = 0; r < e.rows; ++r)
      for (std::int64_t c = 0; c < e.k; ++c) {
        const float scale = q.scales[c / 128 * e.rows + r];
        ASSERT_EQ(scale, greatest_of(x, e, 1, r, c / 128) / 448);
        expect_near(static_cast<float>(q.values[r * e.k + c]), scale, as<float>(x[r * e.k + c]));
      }
  }
}

template <class W>
void check_blocks() {
  for (const Extents& e : sizes) {
    const auto w = testing::all_as<W>(random_bf16(e.rows * e.k, 1));
    const Quantised q = blocks_of(w, e);
    const std::int64_t row = (fp8_blocks(e.k) + 3) / 4 * 4, transposed_row = (fp8_blocks(e.rows) + 3) / 4 * 4;
    for (std::int64_t i = 0; i < fp8_blocks(e.rows); ++i)
      for (std::int64_t j = 0; j < row; ++j)
        ASSERT_EQ(q.scales[i * row + j], j < fp8_blocks(e.k) ? greatest_of(w, e, 128, i, j) / 448 : 0);
    for (std::int64_t j = 0; j < fp8_blocks(e.k); ++j)
      for (std::int64_t i = 0; i < transposed_row; ++i)
        ASSERT_EQ(q.transposed_scales[j * transposed_row + i], i < fp8_blocks(e.rows) ? q.scales[i * row + j] : 0);
    for (std::int64_t r = 0; r < e.rows; ++r)
      for (std::int64_t c = 0; c < e.k; ++c) {
        expect_near(static_cast<float>(q.values[r * e.k + c]), q.scales[r / 128 * row + c / 128],
                    as<float>(w[r * e.k + c]));
        ASSERT_EQ(q.transposed[c * e.rows + r].bits, q.values[r * e.k + c].bits);
      }
  }
}

TEST(Fp8Blocks, HaveAScaleForEach128x128AndTheirTransposed) {
  check_blocks<float>();
  check_blocks<bf16>();
}

TEST(Fp8Rows, OfNothingAreZerosAndOfWhatIsNotFiniteNaN) {
  const Extents e{5, 130};
  std::vector<bf16> x(static_cast<std::size_t>(e.rows * e.k), bf16(1.F));
  const auto put = [&](std::int64_t row, float value) { std::fill_n(x.begin() + row * e.k, 128, bf16(value)); };
  put(0, 0);
  put(1, 0x1p-110F);
  x[2 * e.k + 3] = bf16(std::numeric_limits<float>::infinity());
  x[3 * e.k + 4] = bf16(std::nanf(""));
  const Quantised q = rows_of(x, e);
  const auto value = [&](std::int64_t row, std::int64_t c) {
    return static_cast<float>(q.values[row * e.k + c]) * q.scales[c / 128 * e.rows + row];
  };
  EXPECT_EQ(q.scales[0], 1);
  EXPECT_EQ(q.scales[1], 1);
  for (std::int64_t c = 0; c < 128; ++c) {
    EXPECT_EQ(value(0, c), 0);
    EXPECT_EQ(value(1, c), 0);
    EXPECT_TRUE(std::isnan(value(2, c)));
    EXPECT_EQ(std::isnan(value(3, c)), c == 4);
  }
  for (std::int64_t row = 0; row < e.rows; ++row) EXPECT_EQ(value(row, 129), 1);  // in another block
}

/// A B^T + beta C in float64, of the factors' values.
template <class C>
std::vector<double> product(std::int64_t m, std::int64_t n, std::int64_t k, const Quantised& a, const Quantised& b,
                            double beta, const std::vector<C>& c) {
  std::vector<double> result;
  for (std::int64_t i = 0; i < m; ++i)
    for (std::int64_t j = 0; j < n; ++j) {
      double sum = beta == 0 ? 0 : beta * as<double>(c[i * n + j]);
      for (std::int64_t l = 0; l < k; ++l)
        sum += static_cast<double>(static_cast<float>(a.values[i * k + l])) * a.scales[l / 128 * m + i] *
               static_cast<double>(static_cast<float>(b.values[j * k + l])) *
               b.scales[j / 128 * block_scales_row(k) + l / 128];
      result.push_back(sum);
    }
  return result;
}

template <class C>
void check_products() {
  for (const auto& [m, n, k] :
       {std::array<std::int64_t, 3>{0, 4, 4}, {4, 0, 4}, {4, 4, 0}, {1, 1, 1}, {5, 3, 130}, {9, 140, 300}})
    for (const float beta : {0.F, 1.F, -0.5F}) {
      const Quantised a = rows_of(random_bf16(m * k, 1), {m, k}), b = blocks_of(random_bf16(n * k, 2), {n, k});
      auto c = testing::all_as<C>(random_bf16(m * n, 3));
      const std::vector<double> expected = product(m, n, k, a, b, static_cast<double>(beta), c);
      if (beta == 0)
        for (C& x : c) x = as<C>(std::nanf(""));  // never read
      auto again = c;
      for (auto [threads, to] : {std::pair(1, &c), std::pair(2, &again)}) {
        fp8_matmul(make_cpu(threads), m, n, k, {a.values.data(), a.scales.data()}, {b.values.data(), b.scales.data()},
                   beta, to->data());
        testing::expect_rounded(*to, expected, 1e-4);
      }
    }
}

TEST(Fp8Matmul, IsTheProductOfItsFactors) {
  check_products<float>();
  check_products<bf16>();
}

TEST(Fp8Matmul, FactorsDependOnNoNumberOfThreads) {
  const Extents e{300, 700};
  const auto x = random_bf16(e.rows * e.k, 1);
  const Quantised one = rows_of(x, e, 1), two = rows_of(x, e, 2);
  EXPECT_EQ(one.scales, two.scales);
  EXPECT_TRUE(std::ranges::equal(one.values, two.values, {}, &e4m3::bits, &e4m3::bits));
  const Quantised w = blocks_of(x, e, 1), w2 = blocks_of(x, e, 2);
  EXPECT_EQ(w.scales, w2.scales);
  EXPECT_EQ(w.transposed_scales, w2.transposed_scales);
  EXPECT_TRUE(std::ranges::equal(w.values, w2.values, {}, &e4m3::bits, &e4m3::bits));
  EXPECT_TRUE(std::ranges::equal(w.transposed, w2.transposed, {}, &e4m3::bits, &e4m3::bits));
}

}  // namespace
}  // namespace limbeck::kernels
