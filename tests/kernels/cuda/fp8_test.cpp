#include "kernels/fp8.h"

#include <array>
#include <limits>

#include "kernels/cuda/fp8_product.h"
#include "tests/kernels/cuda/on_gpu.h"

namespace limbeck::kernels {
namespace {

using namespace limbeck::testing;

struct Extents {
  std::int64_t rows, k;
};
const Extents sizes[] = {{0, 8}, {8, 0}, {1, 1}, {3, 7}, {2, 136}, {33, 264}, {130, 128}, {150, 300}, {272, 144}};

/// A row or so of each kind: nothing, very little, an infinity, a NaN.
template <class T>
void put_extremes(std::vector<T>& x, const Extents& e) {
  if (e.rows < 4) return;
  for (std::int64_t c = 0; c < e.k; ++c) x[c] = as<T>(0.F), x[e.k + c] = as<T>(0x1p-120F);
  if (e.k > 2) x[2 * e.k + 1] = as<T>(-std::numeric_limits<float>::infinity()), x[3 * e.k + 2] = as<T>(NAN);
}

std::vector<int> codes_of(const std::vector<e4m3>& values) {
  std::vector<int> codes;
  for (const e4m3 x : values) codes.push_back((x.bits & 0x7f) == 0x7f ? 0x7f : x.bits);  // a NaN may have either sign
  return codes;
}

TEST(CudaFp8, RowsHaveTheBitsOfTheCpu) {
  for (const Extents& e : sizes)
    for (const std::size_t misplaced : {0, 1}) {
      SCOPED_TRACE(::testing::Message() << e.rows << "x" << e.k << " from " << misplaced);
      auto x = random_values<bf16>(e.rows * e.k, 1);
      put_extremes(x, e);
      OnGpu<bf16> there(x, misplaced);
      OnGpu<e4m3> values(e.rows * e.k);
      OnGpu<float> scales(num_row_scales(e.rows, e.k));
      quantise_rows(gpu(), e.rows, e.k, there.data(), values.data(), scales.data());
      std::vector<e4m3> expected(x.size());
      std::vector<float> expected_scales(num_row_scales(e.rows, e.k));
      quantise_rows(cpu(), e.rows, e.k, x.data(), expected.data(), expected_scales.data());
      EXPECT_EQ(codes_of(values.values()), codes_of(expected));
      expect_same(scales.values(), expected_scales);
    }
}

template <class W>
void check_blocks() {
  for (const Extents& e : sizes)
    for (const std::size_t misplaced : {0, 1})
      for (const bool has_extremes : {false, true}) {
        SCOPED_TRACE(::testing::Message() << e.rows << "x" << e.k << " from " << misplaced);
        auto w = random_values<W>(e.rows * e.k, 1);
        if (has_extremes) put_extremes(w, e);
        OnGpu<W> there(w, misplaced);
        OnGpu<e4m3> values(e.rows * e.k), transposed(e.rows * e.k);
        OnGpu<float> scales(num_block_scales(e.rows, e.k)), transposed_scales(num_block_scales(e.k, e.rows));
        quantise_blocks(gpu(), e.rows, e.k, there.data(), values.data(), scales.data(), transposed.data(),
                        transposed_scales.data());
        std::vector<e4m3> expected(w.size()), expected_transposed(w.size());
        std::vector<float> expected_scales(num_block_scales(e.rows, e.k)),
            expected_transposed_scales(num_block_scales(e.k, e.rows));
        quantise_blocks(cpu(), e.rows, e.k, w.data(), expected.data(), expected_scales.data(),
                        expected_transposed.data(), expected_transposed_scales.data());
        EXPECT_EQ(codes_of(values.values()), codes_of(expected));
        EXPECT_EQ(codes_of(transposed.values()), codes_of(expected_transposed));
        expect_same(scales.values(), expected_scales);
        expect_same(transposed_scales.values(), expected_transposed_scales);
      }
}

TEST(CudaFp8, BlocksHaveTheBitsOfTheCpu) {
  check_blocks<float>();
  check_blocks<bf16>();
}

/// Of other sizes in each block and row, so that a scale that is not its own is seen.
template <class T>
std::vector<T> uneven_values(std::int64_t rows, std::int64_t k, unsigned seed) {
  auto x = random_values<T>(rows * k, seed);
  for (std::int64_t i = 0; i < rows * k; ++i)
    x[i] =
        as<T>(std::ldexp(as<float>(x[i]), -static_cast<int>((i / k % 4 + i / k / fp8_block + i % k / fp8_block) % 4)));
  return x;
}

enum class By : bool { TheSizes, PlainKernel };

/// The product of rows and a weight that were quantised on the CPU, beside the CPU's.
template <class C>
void check_product(std::int64_t m, std::int64_t n, std::int64_t k, float beta, By by, bool has_extremes = false) {
  SCOPED_TRACE(::testing::Message() << m << "x" << n << "x" << k << " beta " << beta);
  auto x = uneven_values<bf16>(m, k, 1);
  if (has_extremes) put_extremes(x, {m, k});
  const auto w = uneven_values<float>(n, k, 2);
  auto c = random_values<C>(m * n, 3);
  std::vector<e4m3> a(x.size()), b(w.size()), bt(w.size());
  std::vector<float> a_scales(num_row_scales(m, k)), b_scales(num_block_scales(n, k)),
      bt_scales(num_block_scales(k, n));
  quantise_rows(cpu(), m, k, x.data(), a.data(), a_scales.data());
  quantise_blocks(cpu(), n, k, w.data(), b.data(), b_scales.data(), bt.data(), bt_scales.data());
  OnGpu<e4m3> a_there(a), b_there(b);
  OnGpu<float> a_scales_there(a_scales), b_scales_there(b_scales);
  OnGpu<C> c_there(beta == 0 ? std::vector<C>(c.size(), as<C>(NAN)) : c);  // then never read
  const Fp8Factor a_factor{a_there.data(), a_scales_there.data()}, b_factor{b_there.data(), b_scales_there.data()};
  if (by == By::TheSizes)
    fp8_matmul(gpu(), m, n, k, a_factor, b_factor, beta, c_there.data());
  else
    fp8_plain_product(gpu(), m, n, k, a_factor, b_factor, beta, c_there.data());
  fp8_matmul(cpu(), m, n, k, {a.data(), a_scales.data()}, {b.data(), b_scales.data()}, beta, c.data());
  // A Hopper keeps some 14 bits of the sums of a block (DeepSeek-V3, 3.3.2): of numbers of about 16, to 1e-2.
  expect_close(c_there.values(), c, by == By::TheSizes && is_for_library(gpu(), m, n, k) ? 5000 : 50);
}

TEST(CudaFp8, ProductsAreThoseOfTheCpu) {
  for (const float beta : {0.F, -0.5F}) {
    for (const auto& [m, n, k] : {std::array<std::int64_t, 3>{0, 4, 4},
                                  {4, 0, 4},
                                  {4, 4, 0},
                                  {1, 1, 1},
                                  {5, 7, 3},
                                  {66, 130, 40},
                                  {70, 9, 300},
                                  {16, 32, 128},
                                  {48, 144, 512}}) {
      check_product<float>(m, n, k, beta, By::TheSizes);
      check_product<bf16>(m, n, k, beta, By::TheSizes);
    }
    check_product<bf16>(32, 144, 272, beta, By::PlainKernel);
  }
  check_product<bf16>(16, 32, 256, 0, By::TheSizes, true);
  check_product<bf16>(16, 32, 144, 0, By::PlainKernel, true);
}

TEST(CudaFp8, AHopperMultipliesWholeBlocksByTheLibrary) {
  const bool is_hopper = gpu().state->architecture == 90;
  EXPECT_EQ(has_fp8_products(gpu()), is_hopper);
  EXPECT_EQ(is_for_library(gpu(), 48, 272, 640), is_hopper);
  for (const auto& [m, n, k] : {std::array<std::int64_t, 3>{8, 16, 128}, {16, 8, 128}, {16, 16, 144}, {0, 16, 128}})
    EXPECT_FALSE(is_for_library(gpu(), m, n, k));
}

}  // namespace
}  // namespace limbeck::kernels
