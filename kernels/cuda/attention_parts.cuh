// Forward kernels of attention whose blocks have rows that are queries with each of the heads that read a key/value
// head, so that a key serves all of them: a block's rows, and results of parts of the keys, which a second kernel adds
// up in their order. Scores are exponents of 2.
#pragma once

#include <cmath>
#include <cstdint>
#include <type_traits>

#include "kernels/attention.h"
#include "kernels/cuda/attention_tiles.cuh"
#include "kernels/cuda/scratch.h"

namespace limbeck::kernels {

template <class A>
constexpr A log2_of_e = static_cast<A>(1.4426950408889634074);
template <class A>
constexpr A log_of_2 = static_cast<A>(0.69314718055994530942);
/// The largest score of none.
template <class A>
constexpr A lowest = static_cast<A>(-HUGE_VAL);

template <class A>
__device__ __forceinline__ A raised_2(A x) {
  if constexpr (std::is_same_v<A, float>)
    return gpu::power_of_2(x);
  else
    return exp2(x);
}

/// A block's rows and the keys of their segment, in shared memory: products need the registers.
template <int Rows, int Keys>
struct BlockRows {
  static_assert(attention_page % Keys == 0, "a tile of keys lies in one page");

  RowPlaces<Rows> places;
  std::int64_t numbers[Rows];  // of q and out; below 0 behind the last
  std::int64_t first_key;
  int num_keys;
  const Bounds* bounds;  // of tiles of those keys
  AttentionReach reach;

  /// The whole block calls this, which waits for all.
  __device__ void fill(const AttentionProblem& p, const AttentionReach& the_reach, const Bounds* all_bounds,
                       const SegmentTile& tile, unsigned kv_head, int members) {
    // The tile's first `ahead` rows are of a query that began in the tile before.
    const std::int64_t first_query = tile.begin + tile.first / members;
    const int ahead = static_cast<int>(tile.first % members);
    const std::int64_t first_head = std::int64_t{kv_head} * members;
    for (int r = static_cast<int>(threadIdx.x); r < Rows; r += static_cast<int>(blockDim.x)) numbers[r] = -1;
    if (threadIdx.x == 0) {
      const SegmentTiles<Keys> key_tiles{p.key_offsets, p.num_segments};
      first_key = p.key_offsets[tile.segment];
      num_keys = static_cast<int>(p.key_offsets[tile.segment + 1] - first_key);
      bounds = all_bounds + key_tiles.first_number(tile.segment);
      reach = the_reach;
    }
    places.fill(tile.count, [&](int r) {
      const std::int64_t query = first_query + (ahead + r) / members;
      numbers[r] = query * p.num_heads + first_head + (ahead + r) % members;
      return Place{p.query_position[query], p.query_document[query]};
    });
  }
  /// Then a part of the tiles of keys that may be of use. Likewise.
  struct Range {
    int first, end;
  };
  __device__ Range find_range(unsigned part, unsigned num_parts) {
    places.find_range((num_keys + Keys - 1) / Keys, [&](int i) { return may_see(i); });
    const std::int64_t tiles = places.end > places.first ? places.end - places.first : 0;
    return {places.first + static_cast<int>(tiles * part / num_parts),
            places.first + static_cast<int>(tiles * (part + 1) / num_parts)};
  }
  __device__ bool may_see(int i) const { return kernels::may_see(reach, places.bounds, bounds[i]); }
  /// All rows see a tile of keys, which is whole.
  __device__ bool see_all(int i) const {
    return num_keys - i * Keys >= Keys && kernels::see_all(reach, places.bounds, bounds[i]);
  }
};

/// Bounds of all tiles of keys, in scratch memory, as BlockRows reads them.
template <int Keys>
const Bounds* bounds_of_keys(const Cuda& cuda, Scratch& scratch, const AttentionProblem& p) {
  const std::int64_t tiles = SegmentTiles<Keys>::numbers(p.num_keys, p.num_segments);
  auto* bounds = scratch.take<Bounds>(tiles);
  for_each_row(cuda, tiles,
               BoundsOfTiles<Keys>{{p.key_offsets, p.num_segments}, p.key_position, p.key_document, bounds});
  return bounds;
}

/// What a row's result is to be multiplied by, and the logarithm: of a sum beside a reference, and of a sink where
/// there is one. None seen, and no sink: 0 and -infinity.
template <class A>
struct Whole {
  A share, logsumexp;
};
template <class A>
__device__ inline Whole<A> whole_of(A reference, A sum, const A* sink) {
  if (sink == nullptr)
    return {sum == 0 ? A{0} : 1 / sum, sum == 0 ? lowest<A> : reference * log_of_2<A> + std::log(sum)};
  const A score = *sink * log2_of_e<A>, greatest = max(reference, score);
  const A factor = raised_2(reference - greatest);
  const A all = fma(sum, factor, raised_2(score - greatest));
  return {factor / all, greatest * log_of_2<A> + std::log(all)};
}

/// Sums over parts of the keys: of part s and row r, number s rows + r.
template <class A>
struct Parts {
  struct alignas(2 * sizeof(A)) Weight {
    A reference, sum;  // of weights 2^(score - reference)
  };
  A* sums = nullptr;          // [parts, rows, Dv] of values that are weighted so
  Weight* weights = nullptr;  // [parts, rows]
  std::int64_t rows = 0;      // Tq H

  static std::int64_t bytes(const AttentionProblem& p) {  // of a part
    return p.num_queries * p.num_heads * (p.value_width + 2) * std::int64_t{sizeof(A)};
  }
  static Parts take(Scratch& scratch, const AttentionProblem& p, std::int64_t parts) {
    const std::int64_t rows = p.num_queries * p.num_heads;
    return {scratch.take<A>(parts * rows * p.value_width), scratch.take<Weight>(parts * rows), rows};
  }
};

/// What a row's parts come to, in their order; a warp has 128 columns of a row.
template <class T>
struct AddParts {
  using A = Acc<T>;
  static constexpr int columns = 128;
  Parts<A> parts;
  int num_parts;
  std::int64_t value_width, heads;
  T* out;
  A* logsumexp;
  const A* sinks;

  __device__ void run(std::int64_t number, int lane) const {
    const std::int64_t slices = ceil_div(value_width, columns), row = number / slices;
    const std::int64_t first = number % slices * columns;
    A reference = lowest<A>;
    for (int s = lane; s < num_parts; s += 32) reference = max(reference, weight(s, row).reference);
    reference = warp_reduce(reference, Larger{});
    const A beside = reference == lowest<A> ? A{0} : reference;
    A sum = 0, x[columns / 32] = {};
    for (int begin = 0; begin < num_parts; begin += 32) {
      A factor = 0;
      if (begin + lane < num_parts) {
        const auto of_part = weight(begin + lane, row);
        factor = raised_2(of_part.reference - beside);
        sum += of_part.sum * factor;
      }
      for (int s = begin; s < num_parts && s < begin + 32; ++s) {
        const A of_part = __shfl_sync(full_warp, factor, s - begin);
        const A* const from = parts.sums + (s * parts.rows + row) * value_width + first;
#pragma unroll
        for (int i = 0; i < columns / 32; ++i)
          if (const int c = lane + 32 * i; first + c < value_width) x[i] += from[c] * of_part;
      }
    }
    const Whole<A> whole = whole_of(reference, warp_sum(sum), sinks == nullptr ? nullptr : sinks + row % heads);
#pragma unroll
    for (int i = 0; i < columns / 32; ++i)
      if (const std::int64_t c = first + lane + 32 * i; c < value_width)
        out[row * value_width + c] = as<T>(x[i] * whole.share);
    if (first == 0 && lane == 0) logsumexp[row] = whole.logsumexp;
  }
  __device__ auto weight(std::int64_t part, std::int64_t row) const { return parts.weights[part * parts.rows + row]; }
};

template <class T>
void add_parts(const Cuda& cuda, const AttentionProblem& p, const Parts<Acc<T>>& parts, std::int64_t num_parts, T* out,
               Acc<T>* logsumexp, const Acc<T>* sinks) {
  for_each_row(cuda, parts.rows * ceil_div(p.value_width, AddParts<T>::columns),
               AddParts<T>{parts, static_cast<int>(num_parts), p.value_width, p.num_heads, out, logsumexp, sinks});
}

}  // namespace limbeck::kernels
