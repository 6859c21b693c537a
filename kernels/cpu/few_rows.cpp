#include "kernels/cpu/few_rows.h"

#include <algorithm>
#include <cstring>
#include <experimental/simd>

#include "kernels/cpu/parallel_for.h"

namespace limbeck::kernels {
namespace {

constexpr int lanes = std::experimental::native_simd<float>::size();  // of a register of this build's level
using Floats = float __attribute__((vector_size(4 * lanes)));
using Words = std::uint32_t __attribute__((vector_size(4 * lanes)));
using Halves = std::uint16_t __attribute__((vector_size(2 * lanes)));

Floats load(const float* from) {
  Floats values;
  std::memcpy(&values, from, sizeof values);
  return values;
}
Floats load(const bf16* from) {
  Halves halves;
  std::memcpy(&halves, from, sizeof halves);
  const Words words = __builtin_convertvector(halves, Words) << 16;
  Floats values;
  std::memcpy(&values, &words, sizeof values);
  return values;
}

float sum_of(const Floats& values) {
  std::experimental::native_simd<float> sums;
  std::memcpy(static_cast<void*>(&sums), &values, sizeof sums);
  return std::experimental::reduce(sums);
}

template <class W>
struct Product {
  std::int64_t n, k;
  const float* a;
  const W* b;
  float beta;
  float* c;
};

/// Rows [i, i + Left) of A with rows [j, j + Right) of B. Sums stay in registers. `fetches`: the next rows of B are
/// brought to the cache meanwhile.
template <int Left, int Right, bool fetches, class W>
void multiply(const Product<W>& p, std::int64_t i, std::int64_t j) {
  const float* a = p.a + i * p.k;
  const W* b = p.b + j * p.k;
  Floats sums[Left][Right];
#pragma GCC unroll 4
  for (int l = 0; l < Left; ++l)
#pragma GCC unroll 4
    for (int r = 0; r < Right; ++r) sums[l][r] = Floats{};
  const std::int64_t whole = p.k / lanes * lanes;
  for (std::int64_t d = 0; d < whole; d += lanes) {
    Floats right[Right];
#pragma GCC unroll 4
    for (int r = 0; r < Right; ++r) right[r] = load(b + r * p.k + d);
    if constexpr (fetches)
#pragma GCC unroll 4
      for (int r = 0; r < Right; ++r) __builtin_prefetch(b + (Right + r) * p.k + d);
#pragma GCC unroll 4
    for (int l = 0; l < Left; ++l) {
      const Floats left = load(a + l * p.k + d);
#pragma GCC unroll 4
      for (int r = 0; r < Right; ++r) sums[l][r] += left * right[r];
    }
  }
#pragma GCC unroll 4
  for (int l = 0; l < Left; ++l)
#pragma GCC unroll 4
    for (int r = 0; r < Right; ++r) {
      float sum = sum_of(sums[l][r]);
      for (std::int64_t d = whole; d < p.k; ++d) sum += a[l * p.k + d] * as<float>(b[r * p.k + d]);
      float& to = p.c[(i + l) * p.n + j + r];
      to = p.beta == 0 ? sum : sum + p.beta * to;
    }
}

// The first rows of A wait for B's, which come from memory; while further ones are multiplied, nothing would come.
template <int Left, int Right, class W>
void multiply_some_rows(const Product<W>& p, std::int64_t i, std::int64_t j) {
  if (i == 4 && j + 2 * Right <= p.n)
    multiply<Left, Right, true>(p, i, j);
  else
    multiply<Left, Right, false>(p, i, j);
}

template <int Right, class W>
void multiply_all_rows(const Product<W>& p, std::int64_t m, std::int64_t j) {
  std::int64_t i = 0;
  for (; i + 4 <= m; i += 4) multiply_some_rows<4, Right>(p, i, j);
  if (m - i == 3) multiply_some_rows<3, Right>(p, i, j);
  if (m - i == 2) multiply_some_rows<2, Right>(p, i, j);
  if (m - i == 1) multiply_some_rows<1, Right>(p, i, j);
}

}  // namespace

template <class W>
void few_rows_product(const Cpu& cpu, std::int64_t m, std::int64_t n, std::int64_t k, const float* a, const W* b,
                      float beta, float* c) {
  constexpr int at_once = 2;  // rows of B
  const Product<W> product{n, k, a, b, beta, c};
  parallel_for(cpu, n, 1 + (1 << 14) / (k + 1), [=](std::int64_t begin, std::int64_t end) {
    std::int64_t j = begin;
    for (; j + at_once <= end; j += at_once) multiply_all_rows<at_once>(product, m, j);
    for (; j < end; ++j) multiply_all_rows<1>(product, m, j);
  });
}

template void few_rows_product(const Cpu&, std::int64_t, std::int64_t, std::int64_t, const float*, const float*, float,
                               float*);
template void few_rows_product(const Cpu&, std::int64_t, std::int64_t, std::int64_t, const float*, const bf16*, float,
                               float*);

}  // namespace limbeck::kernels
