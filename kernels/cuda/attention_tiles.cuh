// What the kernels of attention on the tensor cores have in common: tiles in shared memory and their products, segments
// cut into tiles whose numbers need no sum over the segments, and who sees whom.
#pragma once

#include <cuda_bf16.h>

#include <bit>
#include <climits>
#include <cstdint>
#include <type_traits>

#include "kernels/attention.h"
#include "kernels/cuda/reduce.cuh"
#include "kernels/cuda/shared_tile.cuh"
#include "kernels/cuda/warp_rows.cuh"

namespace limbeck::kernels {

// ---- Tiles and products.

/// Rows of bfloat16 in shared memory, 16 bytes further apart than they are long, an odd number of times 16: the eight
/// rows that ldmatrix reads at once lie in different banks, and every place is a constant away from the lane's first.
template <int Rows, int Columns>
struct PaddedTile {
  static_assert(Columns % 16 == 0);
  static constexpr int pitch = Columns + 8, chunks = Columns / 8, bytes = Rows * pitch * 2;
  bf16* values;

  __device__ bf16* at(int row, int chunk) const { return values + row * pitch + chunk * 8; }

  /// Row r, of `width` values, is copied from row_at(r), asynchronously by a block of `Threads`; zeros from `width`
  /// on and in rows from `count` on. Rows begin at multiples of 16 bytes, as does `any`, and are whole chunks.
  template <int Threads, class F>
  __device__ __forceinline__ void copy(const bf16* any, int count, int width, F&& row_at) const {
    constexpr int lanes = chunks & -chunks;  // of a row: the greatest power of 2 that divides the chunks
    const int thread = static_cast<int>(threadIdx.x), first = thread % lanes;
#pragma unroll 1  // a few addresses at a time: products need the registers
    for (int r = thread / lanes; r < Rows; r += Threads / lanes) {
      const bf16* const from = r < count ? row_at(r) : any;
#pragma unroll
      for (int c = first; c < chunks; c += lanes) {
        const bool is_inside = r < count && c * 8 < width;
        gpu::copy_async_or_zero(at(r, c), is_inside ? from + c * 8 : any, is_inside);
      }
    }
  }
};

/// Rows of a head of a matrix. In shared memory what is derived from it is derived each time: products need the
/// registers.
struct HeadRows {
  const bf16* first;   // of the head, in the matrix's first row
  std::int64_t pitch;  // values from a row to the next
  int width;

  /// Heads begin `head_pitch` values apart.
  __device__ void set(const bf16* matrix, std::int64_t heads, std::int64_t head, std::int64_t head_width,
                      std::int64_t head_pitch) {
    first = matrix + head * head_pitch;
    pitch = heads * head_pitch;
    width = static_cast<int>(head_width);
  }
  /// `count` rows from `row` on, asynchronously by a block of `Threads`.
  template <int Threads, class Tile>
  __device__ __forceinline__ void copy(const Tile& to, std::int64_t row, int count) const {
    const bf16* const from = first + row * pitch;
    to.template copy<Threads>(first, count, width, [&](int r) { return from + r * pitch; });
  }
};

/// Parts of a product's sums that a warp has: 16 Pieces rows and so many columns, as gpu::multiply_add gives them.
template <int Pieces, int Columns>
using Sums = float[Pieces][Columns / 8][4];

/// Left factors that are read where they lie, from the warp's first row on.
template <int Rows, int Width>
struct LyingRows {
  PaddedTile<Rows, Width> tile;
  int first;
  __device__ LyingRows(const PaddedTile<Rows, Width>& of, int first_row) : tile(of), first(first_row) {}
  template <int Pieces>
  __device__ __forceinline__ void get(int k, std::uint32_t (&a)[Pieces][4]) const {
#pragma unroll
    for (int i = 0; i < Pieces; ++i) left_factor(tile, first + 16 * i, k, a[i]);
  }
};

/// The same in registers.
template <int Width, int Pieces>
struct KeptRows {
  std::uint32_t factors[Width / 16][Pieces][4];

  template <int Rows>
  __device__ __forceinline__ explicit KeptRows(const LyingRows<Rows, Width>& rows) {
#pragma unroll
    for (int k = 0; k < Width; k += 16) rows.get(k, factors[k / 16]);
  }
  __device__ __forceinline__ void get(int k, std::uint32_t (&a)[Pieces][4]) const {
#pragma unroll
    for (int i = 0; i < Pieces; ++i)
#pragma unroll
      for (int j = 0; j < 4; ++j) a[i][j] = factors[k / 16][i][j];
  }
};

/// One or the other, of LyingRows.
template <bool Kept, int Pieces, int Rows, int Width>
using LeftRows = std::conditional_t<Kept, KeptRows<Width, Pieces>, LyingRows<Rows, Width>>;

/// Two results beside each other: += a b.
__device__ __forceinline__ void multiply_add_pair(float (&left)[4], float (&right)[4], const std::uint32_t (&a)[4],
                                                  const std::uint32_t (&b)[4]) {
  const std::uint32_t first[2] = {b[0], b[1]}, second[2] = {b[2], b[3]};
  gpu::multiply_add(left, a, first);
  gpu::multiply_add(right, a, second);
}

/// sums += rows [.,Width] times columns [Columns,Width] transposed.
template <int Pieces, int Columns, int Width, class Left>
__device__ __forceinline__ void multiply(const Left& rows, const PaddedTile<Columns, Width>& columns,
                                         Sums<Pieces, Columns>& sums) {
#pragma unroll
  for (int k = 0; k < Width; k += 16) {
    std::uint32_t a[Pieces][4];
    rows.get(k, a);
#pragma unroll
    for (int n = 0; n < Columns; n += 16) {
      std::uint32_t b[4];
      right_factors(columns, n, k, b);
#pragma unroll
      for (int i = 0; i < Pieces; ++i) multiply_add_pair(sums[i][n / 8], sums[i][n / 8 + 1], a[i], b);
    }
  }
}

/// Two numbers rounded to bfloat16, the first in the lower half.
__device__ __forceinline__ std::uint32_t rounded_pair(float low, float high) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
  return std::uint32_t{__bfloat16_as_ushort(pair.y)} << 16 | __bfloat16_as_ushort(pair.x);
}

/// sums += weights [.,Columns], rounded to be factors, times rows [Columns,Width].
template <int Pieces, int Columns, int Width>
__device__ __forceinline__ void add_weighted(const Sums<Pieces, Columns>& weights,
                                             const PaddedTile<Columns, Width>& rows, Sums<Pieces, Width>& sums) {
#pragma unroll
  for (int k = 0; k < Columns; k += 16) {
    std::uint32_t a[Pieces][4];
#pragma unroll
    for (int i = 0; i < Pieces; ++i)
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const float(&from)[4] = weights[i][k / 8 + j / 2];
        a[i][j] = rounded_pair(from[j % 2 * 2], from[j % 2 * 2 + 1]);
      }
#pragma unroll
    for (int n = 0; n < Width; n += 16) {
      std::uint32_t b[4];
      right_factors_transposed(rows, n, k, b);
#pragma unroll
      for (int i = 0; i < Pieces; ++i) multiply_add_pair(sums[i][n / 8], sums[i][n / 8 + 1], a[i], b);
    }
  }
}

// ---- Segments in tiles.

/// Rows [first, first + count) of a segment, which begins at `begin` of what is counted and has `members` rows for
/// each.
struct SegmentTile {
  std::int64_t segment = 0, begin = 0;
  std::int64_t first = 0;
  int count = 0;
};

/// Segments cut into tiles of so many rows, of which each of [offsets[n], offsets[n+1]) has `members`. Tile i of
/// segment n has the number offsets[n] members / Rows + n + i: some numbers are of no tile.
template <int Rows>
struct SegmentTiles {
  const std::int64_t* offsets;
  std::int64_t segments;
  int members = 1;

  /// No number is as large, where the segments have `total` rows.
  static constexpr std::int64_t numbers(std::int64_t total, std::int64_t segments) { return total / Rows + segments; }
  __device__ std::int64_t first_number(std::int64_t n) const { return offsets[n] * members / Rows + n; }

  /// The tile of a number, found by the whole warp; false where there is none.
  __device__ bool find(std::int64_t number, SegmentTile& tile) const {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    std::int64_t low = 0, high = segments;  // it is of one of [low, high)
    while (high - low > 1) {
      const std::int64_t step = (high - low + 31) / 32, n = low + lane * step;
      const unsigned before = __ballot_sync(full_warp, (n < high && first_number(n) <= number) || lane == 0);
      low += (__popc(before) - 1) * step;
      high = high - low < step ? high : low + step;
    }
    tile.segment = low;
    tile.begin = offsets[low];
    tile.first = (number - first_number(low)) * Rows;
    const std::int64_t left = (offsets[low + 1] - tile.begin) * members - tile.first;
    tile.count = static_cast<int>(left < Rows ? left : Rows);
    return tile.first >= 0 && tile.count > 0;
  }
};

// ---- Who sees whom.

struct Place {
  std::int32_t position, document;
};

__device__ inline bool sees(const AttentionReach& reach, const Place& query, const Place& key) {
  return key.document == query.document && reach.holds(query.position, key.position);
}

/// Of the places of some rows.
struct alignas(16) Bounds {
  std::int32_t min_position, max_position, min_document, max_document;

  __device__ static Bounds of_nothing() { return {INT_MAX, INT_MIN, INT_MAX, INT_MIN}; }
  __device__ void add(const Place& place) {
    min_position = min(min_position, place.position);
    max_position = max(max_position, place.position);
    min_document = min(min_document, place.document);
    max_document = max(max_document, place.document);
  }
  /// Those of the whole warp.
  __device__ Bounds of_warp() const {
    return {__reduce_min_sync(full_warp, min_position), __reduce_max_sync(full_warp, max_position),
            __reduce_min_sync(full_warp, min_document), __reduce_max_sync(full_warp, max_document)};
  }
};

/// Some query may see some key.
__device__ inline bool may_see(const AttentionReach& reach, const Bounds& queries, const Bounds& keys) {
  return reach.may_hold(queries, keys) && keys.max_document >= queries.min_document &&
         keys.min_document <= queries.max_document;
}
/// Every query sees every key.
__device__ inline bool see_all(const AttentionReach& reach, const Bounds& queries, const Bounds& keys) {
  return reach.holds_all(queries, keys) && keys.min_document == queries.min_document &&
         keys.max_document == queries.max_document && keys.min_document == keys.max_document;
}

/// The bounds of each tile, by its number, a warp a tile.
template <int Rows>
struct BoundsOfTiles {
  SegmentTiles<Rows> tiles;
  const std::int32_t *position, *document;
  Bounds* bounds;
  __device__ void run(std::int64_t number, int lane) const {
    SegmentTile tile;
    Bounds all = Bounds::of_nothing();
    if (tiles.find(number, tile))
      for (int i = lane; i < tile.count; i += 32) {
        const std::int64_t at = tile.begin + tile.first + i;
        all.add({position[at], document[at]});
      }
    all = all.of_warp();
    if (lane == 0) bounds[number] = all;
  }
};

/// A tile's rows as the block sees them, in shared memory.
template <int Rows>
struct RowPlaces {
  Place places[Rows];
  Bounds bounds;
  std::int32_t first, end;  // of the tiles of the other side that may be of use

  /// Row r, below `count`, is at place_of(r), which is called once. The whole block calls this, which waits for all.
  template <class F>
  __device__ void fill(int count, F&& place_of) {
    const int r = static_cast<int>(threadIdx.x);
    if (r == 0) {
      bounds = Bounds::of_nothing();
      first = INT_MAX;
      end = 0;
    }
    __syncthreads();
    Bounds mine = Bounds::of_nothing();
    for (int i = r; i < Rows; i += static_cast<int>(blockDim.x)) {
      places[i] = i < count ? place_of(i) : Place{INT_MIN, 0};
      if (i < count) mine.add(places[i]);
    }
    mine = mine.of_warp();
    if (r % 32 == 0) {
      atomicMin(&bounds.min_position, mine.min_position);
      atomicMax(&bounds.max_position, mine.max_position);
      atomicMin(&bounds.min_document, mine.min_document);
      atomicMax(&bounds.max_document, mine.max_document);
    }
    __syncthreads();
  }

  /// Then [first, end): outside of it is_seen(i) is false for all tiles [0, tiles).
  template <class F>
  __device__ void find_range(int tiles, F&& is_seen) {
    int least = INT_MAX, most = 0;
    for (int i = static_cast<int>(threadIdx.x); i < tiles; i += static_cast<int>(blockDim.x))
      if (is_seen(i)) {
        least = min(least, i);
        most = i + 1;
      }
    least = __reduce_min_sync(full_warp, least);
    most = __reduce_max_sync(full_warp, most);
    if (threadIdx.x % 32 == 0) {
      atomicMin(&first, least);
      atomicMax(&end, most);
    }
    __syncthreads();
  }
};

/// A bit for each of the columns that a lane has scores of, for each of its rows: whether they see each other.
template <int Pieces>
struct SeenColumns {
  std::uint32_t bits[Pieces][2];

  /// `rows` are those of the warp; `position` and `document` begin with the first column. None sees a column from
  /// `count` on.
  template <bool RowsAreKeys, int Columns>
  __device__ __forceinline__ void find(const AttentionReach& reach, const Place* rows, const std::int32_t* position,
                                       const std::int32_t* document, int count) {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    Place row[Pieces][2];
#pragma unroll
    for (int i = 0; i < Pieces; ++i)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        row[i][half] = rows[16 * i + 8 * half + lane / 4];
        bits[i][half] = 0;
      }
#pragma unroll 4
    for (int bit = 0; bit < Columns / 4; ++bit) {
      const int c = bit / 2 * 8 + lane % 4 * 2 + bit % 2;
      if (c >= count) break;
      const Place column{position[c], document[c]};
#pragma unroll
      for (int i = 0; i < Pieces; ++i)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const bool is_seen = RowsAreKeys ? sees(reach, column, row[i][half]) : sees(reach, row[i][half], column);
          bits[i][half] |= static_cast<std::uint32_t>(is_seen) << bit;
        }
    }
  }

  /// Scores of those that do not see each other become `otherwise`.
  template <int Columns>
  __device__ __forceinline__ void mask(float otherwise, Sums<Pieces, Columns>& scores) const {
#pragma unroll
    for (int i = 0; i < Pieces; ++i)
#pragma unroll
      for (int n = 0; n < Columns / 8; ++n)
#pragma unroll
        for (int j = 0; j < 4; ++j)
          if ((bits[i][j / 2] >> (2 * n + j % 2) & 1U) == 0) scores[i][n][j] = otherwise;
  }
};

}  // namespace limbeck::kernels
