// What the forward and the backward of attention have in common: tiles of 32 queries and of 32 keys in shared memory,
// widened, and who sees whom. A block is eight warps; a warp has four rows of one tile, a lane a row of the other.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>
#include <type_traits>

#include "kernels/attention.h"
#include "kernels/cuda/grouped_tiles.cuh"
#include "kernels/cuda/reduce.cuh"
#include "kernels/cuda/vector.cuh"

namespace limbeck::kernels {

inline constexpr int attention_tile = 32;
inline constexpr int attention_warps = 8;
inline constexpr int attention_threads = attention_warps * 32;
inline constexpr int rows_of_warp = attention_tile / attention_warps;

__device__ inline int lane_index() { return static_cast<int>(threadIdx.x) % 32; }
__device__ inline int warp_index() { return static_cast<int>(threadIdx.x) / 32; }

/// Rows of `width` values in shared memory, one value apart from being a multiple of the banks.
template <class A>
struct RowsTile {
  A* values;
  int width;

  static constexpr std::int64_t elements(std::int64_t width) { return attention_tile * (width + 1); }
  __device__ A* row(int r) const { return values + r * (width + 1); }

  /// Row r is row_of(r) of the matrix, whose rows are `pitch` values, from `column` on; zeros from `count` rows on.
  template <class T, class F>
  __device__ void read(const T* from, std::int64_t pitch, std::int64_t column, int count, F&& row_of) const {
    for (int i = static_cast<int>(threadIdx.x); i < attention_tile * width; i += attention_threads) {
      const int r = i / width, c = i % width;
      row(r)[c] = r < count ? as<A>(from[row_of(r) * pitch + column + c]) : A{0};
    }
  }
};

/// Tiles one behind the other in shared memory.
template <class A>
struct TileMemory {
  A* next;
  __device__ RowsTile<A> take(int width) {
    const RowsTile<A> rows{next, width};
    next += RowsTile<A>::elements(width);
    return rows;
  }
};

template <class A>
__device__ A dot(const A* a, const A* b, int n) {
  A sum = 0;
  for (int i = 0; i < n; ++i) sum += a[i] * b[i];
  return sum;
}

/// Sums of a warp's row over `width` columns, of which a lane has every 32nd.
template <class A, int Chunks>
struct RowSums {
  A of_lane[Chunks] = {};

  __device__ __forceinline__ void scale(A factor) {
#pragma unroll
    for (int c = 0; c < Chunks; ++c) of_lane[c] *= factor;
  }
  /// += sum over the lanes' rows r of weight_r rows[r]; `weight` is the lane's own.
  __device__ __forceinline__ void add_weighted(A weight, const RowsTile<A>& rows) {
    for (int r = 0; r < attention_tile; ++r) {
      const A w = __shfl_sync(full_warp, weight, r);
      const A* const row = rows.row(r);
#pragma unroll
      for (int c = 0; c < Chunks; ++c)
        if (const int column = lane_index() + 32 * c; column < rows.width) of_lane[c] += w * row[column];
    }
  }
  /// f(column, sum) for the lane's columns.
  template <class F>
  __device__ __forceinline__ void for_each(int width, F&& f) const {
#pragma unroll
    for (int c = 0; c < Chunks; ++c)
      if (const int column = lane_index() + 32 * c; column < width) f(column, of_lane[c]);
  }
};

__device__ inline bool sees(const AttentionProblem& p, std::int64_t query, std::int64_t key) {
  return p.query_document[query] == p.key_document[key] &&
         p.reach().holds(p.query_position[query], p.key_position[key]);
}

/// Whether any of the queries [query, query + queries) sees any of the keys [key, key + keys): alike for the block,
/// which meets twice here. `flag` is in shared memory.
__device__ inline bool any_sees(const AttentionProblem& p, std::int64_t query, int queries, std::int64_t key, int keys,
                                int* flag) {
  __syncthreads();  // what was read of the tiles, and of the flag, has been
  if (threadIdx.x == 0) *flag = 0;
  __syncthreads();
  bool found = false;
  for (int i = static_cast<int>(threadIdx.x); i < attention_tile * attention_tile; i += attention_threads) {
    const int q = i / attention_tile, k = i % attention_tile;
    found |= q < queries && k < keys && sees(p, query + q, key + k);
  }
  if (found) atomicOr(flag, 1);
  __syncthreads();
  return *flag != 0;
}

/// x as a factor of a product of T: rounded where T is bfloat16.
template <class T>
__device__ Acc<T> as_factor(Acc<T> x) {
  return as<Acc<T>>(as<T>(x));
}

__device__ inline int rows_left(std::int64_t count, std::int64_t first) {
  return static_cast<int>(count - first < attention_tile ? count - first : attention_tile);
}

constexpr std::int64_t widest_head = 256;

/// f(std::integral_constant) with the chunks of 32 columns that a width needs: 2, 4 or 8. Throws beyond widest_head.
template <class F>
void with_chunks(std::int64_t width, F&& f) {
  if (width <= 64)
    f(std::integral_constant<int, 2>());
  else if (width <= 128)
    f(std::integral_constant<int, 4>());
  else if (width <= widest_head)
    f(std::integral_constant<int, 8>());
  else
    throw std::runtime_error("attention: heads on a GPU are at most " + std::to_string(widest_head) + " wide, not " +
                             std::to_string(width));
}

/// Throws where the host does not say how many rows there are.
inline void check_extents(const AttentionProblem& p) {
  if (p.num_queries < 0 || p.num_keys < 0)
    throw std::runtime_error("attention: " + std::to_string(p.num_queries) + " queries and " +
                             std::to_string(p.num_keys) + " keys, expected their numbers");
}

inline void check_segments(const AttentionProblem& p) {
  if (p.num_segments > most_groups)
    throw std::runtime_error("attention: " + std::to_string(p.num_segments) + " sequences on a GPU, at most " +
                             std::to_string(most_groups) + " at once");
}

}  // namespace limbeck::kernels
