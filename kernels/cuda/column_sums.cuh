// Sums over the rows of each column, in an order that depends on the number of rows alone: over parts of the rows, then
// over the parts.
//
//     template <class T>
//     struct Rows {
//       const T* x;
//       std::int64_t width;
//       template <int N, bool Whole>                       // columns c to c + N - 1, of which `count` are there
//       __device__ void add(std::int64_t t, std::int64_t c, int count, Values<Acc<T>, N>& sum) const;
//     };
//     sum_columns<vector_length<T>>(cuda, rows, width, /*add=*/false, Rows<T>{x, width}, sums, x);
#pragma once

#include <algorithm>
#include <cstdint>

#include "kernels/cuda/grid.h"
#include "kernels/cuda/scratch.h"
#include "kernels/cuda/vector.cuh"

namespace limbeck::kernels {

/// Rows that are added up in turn before they are added to other rows: few enough that a GPU has a block for each of
/// about a thousand parts.
inline std::int64_t rows_of_part(std::int64_t rows) { return std::max<std::int64_t>(4, ceil_div(rows, 1024)); }
inline std::int64_t parts_of_rows(std::int64_t rows) { return ceil_div(rows, rows_of_part(rows)); }

/// parts [., columns]: the sums over some rows each, in the order of the rows, of columns from `first` on. A thread has
/// N columns.
template <int N, bool Whole, class A, class F>
__global__ void column_parts_kernel(F rows_of, A* parts, std::int64_t rows, std::int64_t rows_a_part,
                                    std::int64_t first, int columns) {
  const int c = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x) * N;
  if (c >= columns) return;
  for (std::int64_t p = blockIdx.y; p * rows_a_part < rows; p += gridDim.y) {
    const std::int64_t end = rows < (p + 1) * rows_a_part ? rows : (p + 1) * rows_a_part;
    Values<A, N> sum{};
    for (std::int64_t t = p * rows_a_part; t < end; ++t) rows_of.template add<N, Whole>(t, first + c, columns - c, sum);
    store<Whole>(parts + p * columns + c, sum, columns - c);
  }
}

/// total[c] = Σ parts[.,c], `add` adds it to what is there: a warp's lanes have neighbouring columns, the block's warps
/// the parts by turns.
template <class T>
__global__ void sum_parts_kernel(const T* parts, std::int64_t num_parts, std::int64_t width, bool add, T* total,
                                 std::int64_t columns) {
  constexpr unsigned warps = 16;
  __shared__ T of_warp[warps][warp_size];
  const std::int64_t c = std::int64_t{blockIdx.x} * warp_size + threadIdx.x;
  T sum = 0;
  if (c < columns)
    for (std::int64_t p = threadIdx.y; p < num_parts; p += warps) sum += parts[p * width + c];
  of_warp[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.y > 0 || c >= columns) return;
  for (unsigned w = 1; w < warps; ++w) sum += of_warp[w][threadIdx.x];
  total[c] = add ? total[c] + sum : sum;
}

/// parts [num_parts, width], of which the first `columns` are added up.
template <class T>
void sum_parts(const Cuda& cuda, const T* parts, std::int64_t num_parts, std::int64_t width, bool add, T* total,
               std::int64_t columns) {
  if (columns == 0) return;
  gpu::launch(cuda, sum_parts_kernel<T>, dim3(static_cast<unsigned>(ceil_div(columns, warp_size))), dim3(warp_size, 16),
              0, parts, num_parts, width, add, total, columns);
}

/// `add` adds to total [width]. `pointers` are to rows of `width` values, which are read by vectors.
template <int N, class A, class F, class... T>
void sum_columns(const Cuda& cuda, std::int64_t rows, std::int64_t width, bool add, const F& rows_of, A* total,
                 const T*... pointers) {
  const std::int64_t num_parts = parts_of_rows(rows);
  // As many columns at a time as there is scratch memory for.
  constexpr std::int64_t strip = std::int64_t{CudaState::workspace_bytes / sizeof(A)} / 1024;
  A* parts = Scratch(cuda).take<A>(num_parts * std::min(strip, width));
  for (std::int64_t first = 0; first < width; first += strip) {
    const std::int64_t columns = std::min(strip, width - first);
    if (rows > 0) {
      const bool whole = are_rows_aligned<N>(width, pointers...) && columns % N == 0;
      const std::int64_t warps = std::min<std::int64_t>(ceil_div(columns, N * warp_size), usual_threads / warp_size);
      const dim3 block(static_cast<unsigned>(warps) * warp_size);
      const dim3 grid(static_cast<unsigned>(ceil_div(columns, N * block.x)), static_cast<unsigned>(num_parts));
      gpu::launch(cuda, whole ? column_parts_kernel<N, true, A, F> : column_parts_kernel<N, false, A, F>, grid, block,
                  0, rows_of, parts, rows, rows_of_part(rows), first, static_cast<int>(columns));
    }
    sum_parts(cuda, parts, num_parts, columns, add, total + first, columns);
  }
}

}  // namespace limbeck::kernels
