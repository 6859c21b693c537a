#include "kernels/aux_losses.h"

#include <cmath>
#include <limits>

#include "kernels/cuda/ordered_sum.cuh"
#include "kernels/cuda/sequences.cuh"
#include "kernels/cuda/warp_rows.cuh"

namespace limbeck::kernels {
namespace {

constexpr int pieces = 8;  // of a sequence, each a block's

/// f(begin, end, counts, piece, s) for pieces of sequences in turn: the tokens of a piece, and the assignments
/// [experts] of its whole sequence in shared memory.
template <class F>
__device__ void for_each_piece(const std::int32_t* selection, const Sequences& sequences, const BalanceShape& shape,
                               F f) {
  auto* counts = gpu::dynamic_shared<std::int32_t>();
  for (std::int64_t p = blockIdx.x; p < std::int64_t{*sequences.count} * pieces; p += gridDim.x) {
    const std::int64_t begin = sequences.begin(p / pieces), end = sequences.end(p / pieces), n = end - begin;
    for (std::int64_t e = threadIdx.x; e < shape.experts; e += blockDim.x) counts[e] = 0;
    __syncthreads();
    for (std::int64_t a = begin * shape.selected + threadIdx.x; a < end * shape.selected; a += blockDim.x)
      atomicAdd(&counts[selection[a]], 1);
    __syncthreads();
    const std::int64_t piece = p % pieces;
    f(p, begin + n * piece / pieces, begin + n * (piece + 1) / pieces, n, counts);
    __syncthreads();
  }
}

/// parts[p] = Σ_t Σ_e f[s,e] p[t,e] / T_s over the tokens of piece p.
template <class T>
__global__ void balance_kernel(const T* probabilities, const std::int32_t* selection, Sequences sequences,
                               BalanceShape shape, double* parts) {
  for_each_piece(selection, sequences, shape,
                 [&](std::int64_t p, std::int64_t begin, std::int64_t end, std::int64_t n, const std::int32_t* counts) {
                   double sum = 0;
                   for (std::int64_t i = begin * shape.experts + threadIdx.x; i < end * shape.experts; i += blockDim.x)
                     sum += counts[i % shape.experts] * static_cast<double>(probabilities[i]);
                   sum = block_sum(sum);
                   const double assignments = static_cast<double>(n * shape.selected);
                   if (threadIdx.x == 0) parts[p] = sum / assignments / static_cast<double>(n);
                 });
}

template <class T>
__global__ void balance_total_kernel(const double* parts, Sequences sequences, T* loss, double factor) {
  double sum = 0;
  for (std::int64_t p = threadIdx.x; p < std::int64_t{*sequences.count} * pieces; p += blockDim.x) sum += parts[p];
  sum = block_sum(sum);
  if (threadIdx.x == 0) loss[0] = static_cast<T>(factor * sum);
}

template <class T>
__global__ void balance_gradient_kernel(const std::int32_t* selection, Sequences sequences, const T* dloss,
                                        T* dprobabilities, BalanceShape shape, double factor) {
  const double scale = static_cast<double>(dloss[0]) * factor;
  for_each_piece(selection, sequences, shape,
                 [&](std::int64_t, std::int64_t begin, std::int64_t end, std::int64_t n, const std::int32_t* counts) {
                   const double assignments = static_cast<double>(n * shape.selected);
                   for (std::int64_t i = begin * shape.experts + threadIdx.x; i < end * shape.experts; i += blockDim.x)
                     dprobabilities[i] =
                         static_cast<T>(scale * (counts[i % shape.experts] / assignments) / static_cast<double>(n));
                 });
}

struct Selection {
  const std::int32_t* selection;
  __device__ int bin(std::int64_t a) const { return selection[a]; }
};

/// counts[e] of those of the tiles.
template <class T>
struct AddTiles {
  const std::int32_t* of_tile;
  int tiles;
  T* counts;
  __device__ void run(std::int64_t e, int lane) const {
    std::int32_t sum = 0;
    for (int tile = lane; tile < tiles; tile += warp_size) sum += of_tile[e * tiles + tile];
    sum = warp_sum(sum);
    if (lane == 0) counts[e] = static_cast<T>(sum);
  }
};

template <class T>
__device__ double all_counts(const T* counts, std::int64_t experts) {
  double all = 0;
  for (std::int64_t e = 0; e < experts; ++e) all += static_cast<double>(counts[e]);
  return all;
}

template <class T>
struct CountedProbabilities {
  const T* probabilities;
  const T* counts;
  std::int64_t experts;
  template <int N, bool Whole>
  __device__ double run(std::int64_t i, int count) const {
    const auto p = load<N, Whole>(probabilities + i, count);
    double sum = 0;
    for (int j = 0; j < N; ++j)
      if (j < count) sum += static_cast<double>(counts[(i + j) % experts]) * static_cast<double>(p[j]);
    return sum;
  }
};

template <class T>
struct StoreSharedLoss {
  const T* counts;
  std::int64_t experts;
  double weight;
  T* loss;
  __device__ void operator()(double total) const {
    const double all = all_counts(counts, experts);
    loss[0] = static_cast<T>(all > 0 ? weight * static_cast<double>(experts) * total / all : 0);
  }
};

template <class T>
__global__ void shared_gradient_kernel(const T* counts, const T* dloss, T* dprobabilities, BalanceShape shape,
                                       double weight) {
  const double all = all_counts(counts, shape.experts);
  const double scale = all > 0 ? static_cast<double>(dloss[0]) * weight * static_cast<double>(shape.experts) / all : 0;
  const std::int64_t step = std::int64_t{gridDim.x} * blockDim.x;
  for (std::int64_t i = std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < shape.tokens * shape.experts;
       i += step)
    dprobabilities[i] = static_cast<T>(scale * static_cast<double>(counts[i % shape.experts]));
}

template <class T>
struct LogSumExp {
  const T* z;
  T* logsumexp;
  int width;
  __device__ void run(std::int64_t t, int lane) const {
    const T* zt = z + t * width;
    T largest = -std::numeric_limits<T>::infinity();
    for (int e = lane; e < width; e += warp_size) largest = Larger{}(largest, zt[e]);
    largest = warp_reduce(largest, Larger{});
    T sum = 0;
    for (int e = lane; e < width; e += warp_size) sum += std::exp(zt[e] - largest);
    sum = warp_sum(sum);
    if (lane == 0) logsumexp[t] = largest + std::log(sum);
  }
};

template <class T>
struct StoreScaled {
  double factor;
  T* to;
  __device__ void operator()(double total) const { *to = static_cast<T>(factor * total); }
};

template <class T>
struct ZLossGradient {
  const T* z;
  const T* logsumexp;
  const T* dloss;
  T* dz;
  int width;
  T weight;
  __device__ void run(std::int64_t t, int lane) const {
    const T of_row = logsumexp[t], factor = 2 * dloss[0] * weight * of_row;
    for (std::int64_t i = t * width + lane; i < (t + 1) * width; i += warp_size)
      dz[i] = factor * std::exp(z[i] - of_row);
  }
};

/// Blocks for the pieces of at most `tokens` sequences.
dim3 blocks_for_pieces(const Cuda& cuda, std::int64_t tokens) { return blocks_for(cuda, tokens * pieces); }

std::size_t counts_bytes(const BalanceShape& shape) {
  return static_cast<std::size_t>(shape.experts) * sizeof(std::int32_t);
}

}  // namespace

template <class D, class T>
void balance_loss(const D& cuda, const T* probabilities, const std::int32_t* selection, const std::int32_t* sequence,
                  T* loss, const BalanceShape& shape, double weight) {
  Scratch scratch(cuda);
  const Sequences sequences = find_sequences(cuda, scratch, sequence, shape.tokens);
  auto* parts = scratch.take<double>(shape.tokens * pieces);
  if (shape.tokens > 0)
    gpu::launch(cuda, balance_kernel<T>, blocks_for_pieces(cuda, shape.tokens), dim3(usual_threads),
                counts_bytes(shape), probabilities, selection, sequences, shape, parts);
  gpu::launch(cuda, balance_total_kernel<T>, dim3(1), dim3(usual_threads), 0, static_cast<const double*>(parts),
              sequences, loss, weight * static_cast<double>(shape.experts));
}

template <class D, class T>
void balance_loss_gradient(const D& cuda, const std::int32_t* selection, const std::int32_t* sequence, const T* dloss,
                           T* dprobabilities, const BalanceShape& shape, double weight) {
  if (shape.tokens == 0) return;
  Scratch scratch(cuda);
  const Sequences sequences = find_sequences(cuda, scratch, sequence, shape.tokens);
  gpu::launch(cuda, balance_gradient_kernel<T>, blocks_for_pieces(cuda, shape.tokens), dim3(usual_threads),
              counts_bytes(shape), selection, sequences, dloss, dprobabilities, shape,
              weight * static_cast<double>(shape.experts));
}

template <class D, class T>
void count_assignments(const D& cuda, const std::int32_t* selection, T* counts, const BalanceShape& shape) {
  const std::int64_t n = shape.tokens * shape.selected, tiles = sort_tiles(n);
  auto* of_tile = Scratch(cuda).take<std::int32_t>(shape.experts * tiles);
  if (n > 0)
    gpu::launch(cuda, sort_histogram_kernel<Selection>, dim3(static_cast<unsigned>(tiles)), dim3(usual_threads),
                counts_bytes(shape), Selection{selection}, n, static_cast<int>(shape.experts), of_tile);
  for_each_row(cuda, shape.experts, AddTiles<T>{of_tile, static_cast<int>(tiles), counts});
}

template <class D, class T>
void shared_balance_loss(const D& cuda, const T* probabilities, const T* counts, T* loss, const BalanceShape& shape,
                         double weight) {
  Scratch scratch(cuda);
  ordered_sum<vector_length<T>>(cuda, scratch, shape.tokens * shape.experts,
                                CountedProbabilities<T>{probabilities, counts, shape.experts},
                                StoreSharedLoss<T>{counts, shape.experts, weight, loss}, probabilities);
}

template <class D, class T>
void shared_balance_loss_gradient(const D& cuda, const T* counts, const T* dloss, T* dprobabilities,
                                  const BalanceShape& shape, double weight) {
  const std::int64_t n = shape.tokens * shape.experts;
  if (n > 0)
    gpu::launch(cuda, shared_gradient_kernel<T>, blocks_for(cuda, ceil_div(n, usual_threads)), dim3(usual_threads), 0,
                counts, dloss, dprobabilities, shape, weight);
}

template <class D, class T>
void z_loss(const D& cuda, const T* z, T* logsumexp, T* loss, std::int64_t rows, std::int64_t width, double weight) {
  Scratch scratch(cuda);
  for_each_row(cuda, rows, LogSumExp<T>{z, logsumexp, static_cast<int>(width)});
  ordered_sum<vector_length<T>>(cuda, scratch, rows, Squares<T>{logsumexp}, StoreScaled<T>{weight, loss}, logsumexp);
}

template <class D, class T>
void z_loss_gradient(const D& cuda, const T* z, const T* logsumexp, const T* dloss, T* dz, std::int64_t rows,
                     std::int64_t width, double weight) {
  for_each_row(cuda, rows, ZLossGradient<T>{z, logsumexp, dloss, dz, static_cast<int>(width), static_cast<T>(weight)});
}

#define LIMBECK_INSTANTIATE(T)                                                                                         \
  template void balance_loss(const Cuda&, const T*, const std::int32_t*, const std::int32_t*, T*, const BalanceShape&, \
                             double);                                                                                  \
  template void balance_loss_gradient(const Cuda&, const std::int32_t*, const std::int32_t*, const T*, T*,             \
                                      const BalanceShape&, double);                                                    \
  template void count_assignments(const Cuda&, const std::int32_t*, T*, const BalanceShape&);                          \
  template void shared_balance_loss(const Cuda&, const T*, const T*, T*, const BalanceShape&, double);                 \
  template void shared_balance_loss_gradient(const Cuda&, const T*, const T*, T*, const BalanceShape&, double);        \
  template void z_loss(const Cuda&, const T*, T*, T*, std::int64_t, std::int64_t, double);                             \
  template void z_loss_gradient(const Cuda&, const T*, const T*, const T*, T*, std::int64_t, std::int64_t, double);
LIMBECK_INSTANTIATE(float)
LIMBECK_INSTANTIATE(double)

}  // namespace limbeck::kernels
