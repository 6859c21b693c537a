// Factors in FP8, and their product on GPUs whose tensor cores lack blocks of scales.
#include "kernels/fp8.h"

#include <cuda_fp8.h>

#include <algorithm>
#include <bit>

#include "kernels/cuda/fp8_product.h"
#include "kernels/cuda/vector.cuh"
#include "kernels/cuda/warp_rows.cuh"

namespace limbeck::kernels {
namespace {

constexpr int vector = 8;  // values at once: 16 bytes of bfloat16
constexpr auto block = static_cast<int>(fp8_block);

/// x / scale as e4m3, a pair in an instruction where the GPU has it.
__device__ Values<e4m3, vector> quantised(const Values<float, vector>& x, float scale) {
  const float inverse = 1 / scale;
  Values<e4m3, vector> codes;
  for (int i = 0; i < vector; i += 2) {
    const __nv_fp8x2_storage_t pair =
        __nv_cvt_float2_to_fp8x2(make_float2(x[i] * inverse, x[i + 1] * inverse), __NV_SATFINITE, __NV_E4M3);
    codes[i].bits = static_cast<std::uint8_t>(pair & 0xffU);
    codes[i + 1].bits = static_cast<std::uint8_t>(pair >> 8U);
  }
  return codes;
}

__device__ float greatest_of(const Values<float, vector>& x, float greatest) {
  for (int i = 0; i < vector; ++i) greatest = Larger{}(greatest, fabsf(x[i]));
  return greatest;
}

/// Of a vector from `at` on, the values within `n`.
__device__ int count_within(std::int64_t at, std::int64_t n) {
  return static_cast<int>(std::clamp<std::int64_t>(n - at, 0, vector));
}

/// A warp takes two blocks of its row at a time, with a vector to a lane.
template <bool Whole>
struct QuantiseRow {
  const bf16* x;
  e4m3* values;
  float* scales;
  std::int64_t rows, k;

  __device__ void run(std::int64_t row, int lane) const {
    for (std::int64_t first = 0; first < k; first += 2 * fp8_block) {
      const std::int64_t at = first + std::int64_t{lane} * vector;
      const int count = count_within(at, k);
      Values<float, vector> v{};
      if (count > 0) v = load<vector, Whole>(x + row * k + at, count);
      float greatest = greatest_of(v, 0);
      for (int distance = block / vector / 2; distance > 0; distance /= 2)
        greatest = Larger{}(greatest, __shfl_xor_sync(full_warp, greatest, distance));
      const float scale = fp8_scale(greatest);
      if (count == 0) continue;
      copy<vector, Whole>(quantised(v, scale).v, values + row * k + at, count);
      if (at % fp8_block == 0) scales[at / fp8_block * rows + row] = scale;
    }
  }
};

template <class W>
struct QuantiseBlocks {
  std::int64_t rows, columns;
  const W* w;
  e4m3* values;
  float* scales;
  e4m3* transposed;
  float* transposed_scales;
};

constexpr int block_threads = 256;
constexpr int tile_column = block / 4 + 1;  // words: the next column begins in the next bank

/// f(row, column, count) for the vectors of a block [count of rows, count of columns] that begins at (row, column).
template <class F>
__device__ void for_each_in_block(std::int64_t rows, std::int64_t columns, std::int64_t row, std::int64_t column,
                                  F&& f) {
  for (int i = static_cast<int>(threadIdx.x); i < block * block / vector; i += block_threads) {
    const int r = i / (block / vector), c = i % (block / vector) * vector;
    const int count = count_within(column + c, columns);
    if (row + r < rows && count > 0) f(r, c, count);
  }
}

/// The scale of the block [i,j] of a weight of `across` blocks, and zeros behind the last.
__device__ void put_scale(float* scales, std::int64_t i, std::int64_t j, std::int64_t across, float scale) {
  const std::int64_t row = (across + 3) / 4 * 4;
  scales[i * row + j] = scale;
  if (j == across - 1)
    for (std::int64_t pad = across; pad < row; ++pad) scales[i * row + pad] = 0;
}

/// A block of threads has a block of the weight, which it reads twice, the second time from a cache; what it writes
/// transposed goes through shared memory, which holds its columns.
template <bool Whole, class W>
__global__ void __launch_bounds__(block_threads) quantise_blocks_kernel(QuantiseBlocks<W> p) {
  __shared__ std::uint32_t tile[block * tile_column];
  auto* const codes_of_tile = reinterpret_cast<e4m3*>(tile);
  const std::int64_t down = fp8_blocks(p.rows), across = fp8_blocks(p.columns);
  for (std::int64_t t = blockIdx.x; t < down * across; t += gridDim.x) {
    const std::int64_t i = t / across, j = t % across, row = i * fp8_block, column = j * fp8_block;
    float greatest = 0;
    for_each_in_block(p.rows, p.columns, row, column, [&](int r, int c, int count) {
      greatest = greatest_of(load<vector, Whole>(p.w + (row + r) * p.columns + column + c, count), greatest);
    });
    const float scale = fp8_scale(block_reduce(greatest, 0.F, Larger{}));
    for_each_in_block(p.rows, p.columns, row, column, [&](int r, int c, int count) {
      const std::int64_t at = (row + r) * p.columns + column + c;
      const Values<e4m3, vector> codes = quantised(load<vector, Whole>(p.w + at, count), scale);
      copy<vector, Whole>(codes.v, p.values + at, count);
      for (int v = 0; v < vector; ++v) codes_of_tile[(c + v) * tile_column * 4 + r] = codes[v];
    });
    __syncthreads();
    for_each_in_block(p.columns, p.rows, column, row, [&](int c, int r, int count) {
      Values<std::uint32_t, vector / 4> words;
      for (int v = 0; v < vector / 4; ++v) words[v] = tile[c * tile_column + r / 4 + v];
      copy<vector, Whole>(std::bit_cast<Values<e4m3, vector>>(words).v, p.transposed + (column + c) * p.rows + row + r,
                          count);
    });
    if (threadIdx.x == 0) {
      put_scale(p.scales, i, j, across, scale);
      put_scale(p.transposed_scales, j, i, down, scale);
    }
    __syncthreads();
  }
}

constexpr int plain_tile = 64;   // rows and columns of the result that a block of threads makes,
constexpr int plain_terms = 32;  // by so many terms at a time,
constexpr int plain_part = 4;    // and a thread, of each
constexpr int plain_row = plain_tile + 4;

/// [terms,plain_tile] of a factor [rows,k] from (row, first) on, widened; zeros where there is nothing.
template <bool Whole, class F>
__device__ void widen_tile(const e4m3* values, std::int64_t rows, std::int64_t k, std::int64_t row, std::int64_t first,
                           F&& scale_of, float* tile) {
  const int r = static_cast<int>(threadIdx.x) / (plain_terms / vector);
  const int term = static_cast<int>(threadIdx.x) % (plain_terms / vector) * vector;
  const int count = row + r < rows ? count_within(first + term, k) : 0;
  Values<e4m3, vector> codes{};
  float scale = 0;
  if (count > 0) {
    codes = read<vector, Whole>(values + (row + r) * k + first + term, count);
    scale = scale_of(row + r, first / fp8_block);
  }
  for (int v = 0; v < vector; ++v)
    tile[(term + v) * plain_row + r] = v < count ? static_cast<float>(codes[v]) * scale : 0;
}

struct PlainProduct {
  std::int64_t m, n, k;
  Fp8Factor a, b;
  float beta;
};

template <bool Whole, class C>
__global__ void __launch_bounds__(block_threads) fp8_plain_kernel(PlainProduct p, C* c) {
  static_assert(plain_tile * plain_terms == block_threads * vector && plain_tile == 16 * plain_part);
  __shared__ float a_tile[plain_terms * plain_row], b_tile[plain_terms * plain_row];
  const int y = static_cast<int>(threadIdx.x) / 16 * plain_part, x = static_cast<int>(threadIdx.x) % 16 * plain_part;
  const std::int64_t across = ceil_div(p.n, plain_tile), scales_row = block_scales_row(p.k);
  for (std::int64_t t = blockIdx.x; t < ceil_div(p.m, plain_tile) * across; t += gridDim.x) {
    const std::int64_t row = t / across * plain_tile, column = t % across * plain_tile;
    float sums[plain_part][plain_part] = {};
    for (std::int64_t first = 0; first < p.k; first += plain_terms) {
      widen_tile<Whole>(
          p.a.values, p.m, p.k, row, first,
          [&](std::int64_t i, std::int64_t of_k) { return p.a.scales[of_k * p.m + i]; }, a_tile);
      widen_tile<Whole>(
          p.b.values, p.n, p.k, column, first,
          [&](std::int64_t i, std::int64_t of_k) { return p.b.scales[i / fp8_block * scales_row + of_k]; }, b_tile);
      __syncthreads();
      for (int term = 0; term < plain_terms; ++term)
        for (int i = 0; i < plain_part; ++i)
          for (int j = 0; j < plain_part; ++j)
            sums[i][j] = fmaf(a_tile[term * plain_row + y + i], b_tile[term * plain_row + x + j], sums[i][j]);
      __syncthreads();
    }
    for (int i = 0; i < plain_part; ++i)
      for (int j = 0; j < plain_part; ++j) {
        if (row + y + i >= p.m || column + x + j >= p.n) continue;
        C* const to = c + (row + y + i) * p.n + column + x + j;
        *to = rounded<C>(p.beta == 0 ? sums[i][j] : sums[i][j] + p.beta * as<float>(*to));
      }
  }
}

}  // namespace

template <class D>
void quantise_rows(const D& cuda, std::int64_t rows, std::int64_t k, const bf16* x, e4m3* values, float* scales) {
  if (are_rows_aligned<vector>(k, x) && are_aligned<vector>(values))
    for_each_row(cuda, rows, QuantiseRow<true>{x, values, scales, rows, k});
  else
    for_each_row(cuda, rows, QuantiseRow<false>{x, values, scales, rows, k});
}

template <class D, class W>
void quantise_blocks(const D& cuda, std::int64_t rows, std::int64_t columns, const W* w, e4m3* values, float* scales,
                     e4m3* transposed, float* transposed_scales) {
  if (rows == 0 || columns == 0) return;
  const bool is_whole =
      are_rows_aligned<vector>(columns, w) && are_aligned<vector>(values) && are_rows_aligned<vector>(rows, transposed);
  const auto kernel = is_whole ? quantise_blocks_kernel<true, W> : quantise_blocks_kernel<false, W>;
  gpu::launch(cuda, kernel, blocks_for(cuda, fp8_blocks(rows) * fp8_blocks(columns)), dim3(block_threads), 0,
              QuantiseBlocks<W>{rows, columns, w, values, scales, transposed, transposed_scales});
}

template <class C>
void fp8_plain_product(const Cuda& cuda, std::int64_t m, std::int64_t n, std::int64_t k, const Fp8Factor& a,
                       const Fp8Factor& b, float beta, C* c) {
  if (m == 0 || n == 0) return;
  const bool is_whole = are_rows_aligned<vector>(k, a.values, b.values);
  const auto kernel = is_whole ? fp8_plain_kernel<true, C> : fp8_plain_kernel<false, C>;
  gpu::launch(cuda, kernel, blocks_for(cuda, ceil_div(m, plain_tile) * ceil_div(n, plain_tile)), dim3(block_threads), 0,
              PlainProduct{m, n, k, a, b, beta}, c);
}

template void quantise_rows(const Cuda&, std::int64_t, std::int64_t, const bf16*, e4m3*, float*);
template void quantise_blocks(const Cuda&, std::int64_t, std::int64_t, const float*, e4m3*, float*, e4m3*, float*);
template void quantise_blocks(const Cuda&, std::int64_t, std::int64_t, const bf16*, e4m3*, float*, e4m3*, float*);
template void fp8_plain_product(const Cuda&, std::int64_t, std::int64_t, std::int64_t, const Fp8Factor&,
                                const Fp8Factor&, float, float*);
template void fp8_plain_product(const Cuda&, std::int64_t, std::int64_t, std::int64_t, const Fp8Factor&,
                                const Fp8Factor&, float, bf16*);

}  // namespace limbeck::kernels
