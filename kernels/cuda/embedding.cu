#include "kernels/embedding.h"

#include <bit>
#include <utility>

#include "kernels/cuda/stable_sort.cuh"
#include "kernels/cuda/vector.cuh"

namespace limbeck::kernels {
namespace {

template <class W, class T, bool Whole>
__global__ void __launch_bounds__(most_row_threads)
    embedding_kernel(const std::int32_t* token, const W* table, T* y, std::int64_t tokens, int width,
                     std::int64_t first, std::int64_t rows) {
  constexpr int N = vector_length<W, T>;
  for (std::int64_t t = blockIdx.x; t < tokens; t += gridDim.x) {
    const std::int64_t index = token[t] - first;
    const bool is_here = index >= 0 && index < rows;
    for (int c = static_cast<int>(threadIdx.x) * N; c < width; c += static_cast<int>(blockDim.x) * N) {
      const auto v = is_here ? load<N, Whole>(table + index * width + c, width - c) : Values<Acc<W>, N>{};
      store<Whole>(y + t * width + c, v, width - c);
    }
  }
}

/// The tokens of the table's rows, by their rows: a pass of a radix sort, by some of the row's bits.
struct ByRow {
  const std::int32_t* token;
  const std::int32_t* from;  // the order so far, -1 at its end; null: that of the tokens
  std::int32_t* to;
  std::int64_t first, rows;
  int shift, mask;
  __device__ int bin(std::int64_t i) const {
    const std::int32_t t = from != nullptr ? from[i] : static_cast<std::int32_t>(i);
    const std::int64_t row = t < 0 ? -1 : token[t] - first;
    return row < 0 || row >= rows ? -1 : static_cast<int>(row >> shift) & mask;
  }
  __device__ void place(std::int64_t i, std::int32_t place) const {
    if (place >= 0) to[place] = from != nullptr ? from[i] : static_cast<std::int32_t>(i);
  }
};

/// Where the run of equal numbers that begins at `begin` of token[order[.]] ends.
__device__ std::int64_t end_of_run(const std::int32_t* token, const std::int32_t* order, std::int64_t begin,
                                   std::int64_t n) {
  const std::int32_t id = token[order[begin]];
  for (std::int64_t end = begin + 1;; end += warp_size) {
    const std::int64_t i = end + threadIdx.x % warp_size;
    const bool goes_on = i < n && order[i] >= 0 && token[order[i]] == id;
    const unsigned others = ~__ballot_sync(full_warp, goes_on);
    if (others != 0) return end + __ffs(static_cast<int>(others)) - 1;
  }
}

/// A block adds the gradients of one row's tokens, in their order, of the columns that its threads have. `order`: the
/// tokens by their rows, -1 at its end.
template <class T, bool Whole>
__global__ void sum_by_row_kernel(const std::int32_t* token, const std::int32_t* order, const T* dy, bool add,
                                  Acc<T>* dtable, std::int64_t tokens, int width, std::int64_t first) {
  constexpr int N = vector_length<T>;
  const int c = static_cast<int>(blockIdx.y * blockDim.x + threadIdx.x) * N;
  for (std::int64_t i = blockIdx.x; i < tokens && order[i] >= 0; i += gridDim.x) {
    if (i > 0 && token[order[i - 1]] == token[order[i]]) continue;
    const std::int64_t end = end_of_run(token, order, i, tokens);
    if (c >= width) continue;
    Acc<T>* row = dtable + (token[order[i]] - first) * width + c;
    auto sum = add ? load<N, Whole>(row, width - c) : Values<Acc<T>, N>{};
    for (std::int64_t j = i; j < end; ++j) {
      const auto v = load<N, Whole>(dy + std::int64_t{order[j]} * width + c, width - c);
      for (int k = 0; k < N; ++k) sum[k] += v[k];
    }
    store<Whole>(row, sum, width - c);
  }
}

/// The tokens whose rows are in the table, by their rows and then in their order; -1 behind them.
const std::int32_t* order_by_row(const Cuda& cuda, const std::int32_t* token, std::int64_t tokens, std::int64_t first,
                                 std::int64_t rows) {
  const int bits = static_cast<int>(std::bit_width(static_cast<std::uint64_t>(rows - 1)));
  const int passes = std::max(1, static_cast<int>(ceil_div(bits, 10)));
  const int digit = std::max(1, static_cast<int>(ceil_div(bits, passes)));
  Scratch scratch(cuda);
  auto* to = scratch.take<std::int32_t>(tokens);
  auto* other = scratch.take<std::int32_t>(tokens);
  const std::int32_t* from = nullptr;
  for (int pass = 0; pass < passes; ++pass) {
    check_cuda(cudaMemsetAsync(to, 0xff, static_cast<std::size_t>(tokens) * sizeof(std::int32_t), cuda.state->stream));
    Scratch of_pass = scratch;
    stable_sort(cuda, of_pass, tokens, std::int64_t{1} << digit,
                ByRow{token, from, to, first, rows, pass * digit, (1 << digit) - 1});
    from = to;
    std::swap(to, other);
  }
  return from;
}

}  // namespace

template <class D, class W, class T>
void embedding(const D& cuda, const std::int32_t* token, const W* table, T* y, std::int64_t tokens, std::int64_t width,
               std::int64_t first, std::int64_t rows) {
  constexpr int N = vector_length<W, T>;
  if (tokens == 0 || width == 0) return;
  const bool whole = are_rows_aligned<N>(width, table, y);
  gpu::launch(cuda, whole ? embedding_kernel<W, T, true> : embedding_kernel<W, T, false>, blocks_for(cuda, tokens),
              threads_for_row(ceil_div(width, N)), 0, token, table, y, tokens, static_cast<int>(width), first, rows);
}

template <class D, class T>
void embedding_gradient(const D& cuda, const std::int32_t* token, const T* dy, bool add, Acc<T>* dtable,
                        std::int64_t tokens, std::int64_t width, std::int64_t first, std::int64_t rows) {
  constexpr int N = vector_length<T>;
  if (rows == 0 || width == 0) return;
  if (!add)
    check_cuda(cudaMemsetAsync(dtable, 0, static_cast<std::size_t>(rows * width) * sizeof(Acc<T>), cuda.state->stream));
  if (tokens == 0) return;
  const std::int32_t* order = order_by_row(cuda, token, tokens, first, rows);
  constexpr unsigned threads = 128;
  const bool whole = are_rows_aligned<N>(width, dy, dtable);
  const dim3 grid(blocks_for(cuda, tokens).x, static_cast<unsigned>(ceil_div(width, threads * N)));
  gpu::launch(cuda, whole ? sum_by_row_kernel<T, true> : sum_by_row_kernel<T, false>, grid, dim3(threads), 0, token,
              order, dy, add, dtable, tokens, static_cast<int>(width), first);
}

#define LIMBECK_INSTANTIATE(W, T)                                                                                   \
  template void embedding(const Cuda&, const std::int32_t*, const W*, T*, std::int64_t, std::int64_t, std::int64_t, \
                          std::int64_t);
LIMBECK_INSTANTIATE(float, float)
LIMBECK_INSTANTIATE(float, bf16)
LIMBECK_INSTANTIATE(bf16, float)
LIMBECK_INSTANTIATE(bf16, bf16)
LIMBECK_INSTANTIATE(double, double)

#define LIMBECK_INSTANTIATE_GRADIENT(T)                                                                     \
  template void embedding_gradient(const Cuda&, const std::int32_t*, const T*, bool, Acc<T>*, std::int64_t, \
                                   std::int64_t, std::int64_t, std::int64_t);
LIMBECK_INSTANTIATE_GRADIENT(float)
LIMBECK_INSTANTIATE_GRADIENT(double)
LIMBECK_INSTANTIATE_GRADIENT(bf16)

}  // namespace limbeck::kernels
