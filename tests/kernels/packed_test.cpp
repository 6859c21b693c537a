// Products of bfloat16 matrices, with each tile product that this build and processor have, against float64 sums.
#include "kernels/packed.h"

#include <gtest/gtest.h>
#include <sys/mman.h>

#include <bit>
#include <cmath>
#include <cstdlib>
#include <memory>
#include <new>
#include <random>
#include <string>
#include <vector>

#include "kernels/cpu/cpu_cache.h"
#include "kernels/cpu/tile_products.h"
#include "kernels/grouped_matmul.h"

namespace limbeck::kernels {
namespace {

/// n values that end where memory ends: a read behind them ends the test.
template <class T>
class Guarded {
 public:
  explicit Guarded(std::int64_t n) : bytes_((static_cast<std::size_t>(n) * sizeof(T) + page - 1) / page * page) {
    memory_ = ::mmap(nullptr, bytes_ + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory_ == MAP_FAILED || ::mprotect(static_cast<char*>(memory_) + bytes_, page, PROT_NONE) != 0)
      throw std::bad_alloc();
    values_ = reinterpret_cast<T*>(static_cast<char*>(memory_) + bytes_) - n;
  }
  ~Guarded() { ::munmap(memory_, bytes_ + page); }
  Guarded(const Guarded&) = delete;
  Guarded& operator=(const Guarded&) = delete;
  T* data() const { return values_; }

 private:
  static constexpr std::size_t page = 4096;
  std::size_t bytes_;
  void* memory_;
  T* values_;
};

template <class T>
void fill(T* values, std::int64_t n, unsigned seed) {
  std::mt19937 engine(seed);
  for (std::int64_t i = 0; i < n; ++i) values[i] = static_cast<T>(static_cast<float>(engine()) / 0x1p31F - 1);
}

double value(bf16 x) { return static_cast<float>(x); }
double value(float x) { return x; }

struct Extents {
  std::int64_t m, n, k;
};

/// Where element (i,j) of op(X) lies, X stored with `columns` columns where it is not transposed and `rows` where it
/// is.
std::int64_t at(Transpose t, std::int64_t i, std::int64_t j, std::int64_t rows, std::int64_t columns) {
  return t == Transpose::Yes ? j * rows + i : i * columns + j;
}

/// C's elements, wrong by a sum in float32 and one rounding at most.
template <class C, class B>
void expect_product(const Extents& e, Transpose ta, const bf16* a, Transpose tb, const B* b, float beta,
                    const std::vector<C>& before, const C* c, const std::string& what) {
  for (std::int64_t i = 0; i < e.m; ++i)
    for (std::int64_t j = 0; j < e.n; ++j) {
      double sum = beta == 0 ? 0 : beta * value(before[static_cast<std::size_t>(i * e.n + j)]);
      double magnitude = std::abs(sum);
      for (std::int64_t p = 0; p < e.k; ++p) {
        const double term =
            value(a[at(ta, i, p, e.m, e.k)]) * value(bf16(static_cast<float>(b[at(tb, p, j, e.k, e.n)])));
        sum += term;
        magnitude += std::abs(term);
      }
      const double rounding = std::is_same_v<C, bf16> ? std::abs(sum) * 0x1p-8 : 0;
      ASSERT_NEAR(value(c[i * e.n + j]), sum, rounding + magnitude * 1e-6)
          << what << " " << e.m << "x" << e.n << "x" << e.k << " element " << i << "," << j << " beta " << beta;
    }
}

constexpr Extents extents[] = {{0, 5, 3},      {5, 0, 3},      {4, 5, 0},       {1, 1, 1},      {3, 5, 7},
                               {16, 32, 32},   {17, 33, 65},   {32, 64, 64},    {48, 96, 80},   {63, 31, 31},
                               {128, 70, 300}, {1, 100, 64},   {2, 700, 513},   {300, 40, 160}, {49, 64, 64},
                               {31, 40, 2100}, {2, 600, 2080}, {130, 33, 2080}, {17, 33, 4100}};

class Packed : public ::testing::TestWithParam<std::size_t> {
 protected:
  Cpu cpu(int threads) const {
    Cpu result = make_cpu(threads);
    result.cache->tile_product = GetParam();
    return result;
  }
};

template <class C, class W>
void compare(const Cpu& cpu, const Extents& e, Transpose tb, float beta) {
  const Guarded<bf16> a(e.m * e.k);
  const Guarded<W> b(e.n * e.k);
  const Guarded<bf16> packed(packed_elements(e.k, e.n));
  const Guarded<C> c(e.m * e.n);
  fill(a.data(), e.m * e.k, 1);
  fill(b.data(), e.n * e.k, 2);
  // With beta = 0 the old contents must not count, whatever they are.
  if (beta == 0)
    std::fill_n(c.data(), e.m * e.n, C(NAN));
  else
    fill(c.data(), e.m * e.n, 3);
  const std::vector<C> before(c.data(), c.data() + e.m * e.n);
  pack(cpu, 1, tb, e.k, e.n, b.data(), packed.data());
  packed_matmul(cpu, e.m, e.n, e.k, a.data(), packed.data(), beta, c.data());
  expect_product(e, Transpose::No, a.data(), tb, b.data(), beta, before, c.data(), "packed");
  const std::vector<C> of_packed(c.data(), c.data() + e.m * e.n);
  std::copy(before.begin(), before.end(), c.data());
  packed_matmul(cpu, e.m, e.n, e.k, a.data(), RightFactor(tb, b.data()), beta, c.data());
  for (std::int64_t i = 0; i < e.m * e.n; ++i) ASSERT_EQ(value(c.data()[i]), value(of_packed[i])) << "packed by tasks";
}

TEST_P(Packed, ProductEqualsTheNaiveOne) {
  for (const int threads : {1, 2})
    for (const auto& e : extents)
      for (const auto tb : {Transpose::No, Transpose::Yes})
        for (const float beta : {0.F, 1.F, 0.5F}) {
          compare<float, float>(cpu(threads), e, tb, beta);
          compare<bf16, bf16>(cpu(threads), e, tb, beta);
        }
}

TEST_P(Packed, UnpackedMatricesMultiplyInEveryTransposition) {
  for (const int threads : {1, 3})
    for (const auto& e : extents)
      for (const auto ta : {Transpose::No, Transpose::Yes})
        for (const auto tb : {Transpose::No, Transpose::Yes}) {
          const Guarded<bf16> a(e.m * e.k), b(e.n * e.k);
          const Guarded<float> c(e.m * e.n);
          fill(a.data(), e.m * e.k, 4);
          fill(b.data(), e.n * e.k, 5);
          fill(c.data(), e.m * e.n, 6);
          const std::vector<float> before(c.data(), c.data() + e.m * e.n);
          matmul(cpu(threads), ta, tb, e.m, e.n, e.k, a.data(), b.data(), 1.F, c.data());
          expect_product(e, ta, a.data(), tb, b.data(), 1.F, before, c.data(), "unpacked");
        }
}

TEST_P(Packed, BitsDependOnNoNumberOfThreads) {
  // Sums that are kept between blocks, and sums in pieces.
  for (const Extents& e : {Extents{333, 500, 2200}, Extents{40, 70, 6500}}) {
    std::vector<bf16> a(static_cast<std::size_t>(e.m * e.k)), b(static_cast<std::size_t>(e.n * e.k));
    fill(a.data(), e.m * e.k, 7);
    fill(b.data(), e.n * e.k, 8);
    const auto run = [&](int threads, Transpose ta) {
      std::vector<float> c(static_cast<std::size_t>(e.m * e.n));
      matmul(cpu(threads), ta, Transpose::No, e.m, e.n, e.k, a.data(), b.data(), 0.F, c.data());
      return c;
    };
    for (const auto ta : {Transpose::No, Transpose::Yes}) {
      EXPECT_EQ(run(1, ta), run(2, ta));
      EXPECT_EQ(run(1, ta), run(5, ta));
    }
  }
}

// Results that are written around the caches, where the processor can: whole lines, of rows of whole tiles or half
// ones.
TEST_P(Packed, LargeResultsAreAsSmallOnes) {
  for (const std::int64_t n : {1024, 1040}) {
    const Extents e{600, n, 40};
    std::vector<bf16> a(static_cast<std::size_t>(e.m * e.k)), b(static_cast<std::size_t>(e.n * e.k));
    fill(a.data(), e.m * e.k, 9);
    fill(b.data(), e.n * e.k, 10);
    const auto free_it = [](float* p) { std::free(p); };
    const std::unique_ptr<float, decltype(free_it)> c(
        static_cast<float*>(std::aligned_alloc(64, static_cast<std::size_t>(e.m * e.n) * sizeof(float))), free_it);
    std::fill_n(c.get(), e.m * e.n, NAN);
    matmul(cpu(2), Transpose::Yes, Transpose::No, e.m, e.n, e.k, a.data(), b.data(), 0.F, c.get());
    expect_product(e, Transpose::Yes, a.data(), Transpose::No, b.data(), 0.F, {}, c.get(), "large");
  }
}

// Five groups, of which the first and the fourth get no row; rows 0 and 12..14 belong to none.
TEST_P(Packed, GroupsAreOneProductEach) {
  constexpr std::int64_t groups = 5, in = 37, out = 70, rows = 15;
  const std::vector<std::int64_t> offsets = {1, 1, 5, 6, 6, 12};
  std::vector<bf16> x(rows * in), dy(rows * out), w(groups * out * in);
  fill(x.data(), rows * in, 1);
  fill(dy.data(), rows * out, 2);
  fill(w.data(), groups * out * in, 3);
  for (const int threads : {1, 2})
    for (const float beta : {0.F, 1.F}) {
      std::vector<bf16> y(rows * out, bf16(100.F));
      const Guarded<bf16> packed(groups * packed_elements(in, out));
      const std::vector<bf16> y_before = y;
      pack(cpu(threads), groups, Transpose::Yes, in, out, w.data(), packed.data());
      packed_grouped_matmul(cpu(threads), groups, out, in, offsets.data(), x.data(), packed.data(), beta, y.data());
      std::vector<bf16> again = y_before;
      packed_grouped_matmul(cpu(threads), groups, out, in, offsets.data(), x.data(),
                            RightFactor(Transpose::Yes, w.data()), beta, again.data());
      for (std::size_t i = 0; i < y.size(); ++i) ASSERT_EQ(value(again[i]), value(y[i])) << "packed by tasks";
      std::vector<float> dw(groups * out * in, 100);
      const std::vector<float> dw_before = dw;
      grouped_matmul_weight(cpu(threads), groups, in, out, offsets.data(), dy.data(), x.data(), beta, dw.data());
      for (std::int64_t e = 0; e < groups; ++e) {
        const std::int64_t first = offsets[e], count = offsets[e + 1] - first;
        const auto part = [&](const auto& v, std::int64_t from, std::int64_t n) {
          return std::remove_cvref_t<decltype(v)>(v.begin() + from, v.begin() + from + n);
        };
        expect_product({count, out, in}, Transpose::No, &x[first * in], Transpose::Yes, &w[e * out * in], beta,
                       part(y_before, first * out, count * out), y.data() + first * out, "group");
        expect_product({out, in, count}, Transpose::Yes, &dy[first * out], Transpose::No, &x[first * in], beta,
                       part(dw_before, e * out * in, out * in), dw.data() + e * out * in, "weight of group");
      }
      for (const std::int64_t row : {0, 12, 13, 14})
        for (std::int64_t c = 0; c < out; ++c) ASSERT_EQ(value(y[row * out + c]), 100) << row;
    }
}

INSTANTIATE_TEST_SUITE_P(Tiles, Packed, ::testing::Range<std::size_t>(0, tile_products().size()), [](const auto& test) {
  std::string name(tile_products()[test.param].name);
  std::erase_if(name, [](char c) { return std::isalnum(static_cast<unsigned char>(c)) == 0; });
  return name;
});

TEST(Bf16, RoundsToNearestEvenAndKeepsNaN) {
  for (std::uint32_t bits = 0; bits < 0x10000U; ++bits) {
    const auto exact = std::bit_cast<float>(bits << 16U);
    if (std::isnan(exact)) {
      EXPECT_TRUE(std::isnan(static_cast<float>(bf16(exact))));
      continue;
    }
    ASSERT_EQ(bf16(exact).bits, bits);
    if (std::isinf(exact)) continue;
    const std::uint32_t even = bits % 2 == 0 ? bits : bits + 1;
    ASSERT_EQ(bf16(std::bit_cast<float>(bits << 16U | 0x8000U)).bits, even) << bits;  // the middle
    ASSERT_EQ(bf16(std::bit_cast<float>(bits << 16U | 0x7fffU)).bits, bits);
    ASSERT_EQ(bf16(std::bit_cast<float>(bits << 16U | 0x8001U)).bits, bits + 1);
  }
}

}  // namespace
}  // namespace limbeck::kernels
