// One kernel for both sides: a block has a tile of rows, which are queries of a head or keys of a key/value head, and
// goes over tiles of columns, which are the others; it forms the probabilities and the gradients of the scores again
// and sums what its rows get. So every sum is one block's, at the price of seven products of tiles where five would do
// with additions to shared results in no order. Keys and values of heads wider than 64 are apart, with eight products:
// then a warp's sums of 32 rows fit into its registers, and what it reads of shared memory, which is what limits it,
// serves twice. Dao, "FlashAttention-2" (2023), algorithm 2.
//
// Of 2 x 2048 tokens, 16 heads, causal, without the halves of tiles that are masked: 60 GFLOP for heads of 64, 137 for
// 128; 185 MB for heads of 64, of which 101 are dq, dk and dv in float32, read and written, and about 420 for 128 (4 kv
// heads: 109 and 240).
#include <algorithm>

#include "kernels/cuda/attention_mma.h"
#include "kernels/cuda/attention_mma_widths.h"
#include "kernels/cuda/attention_tiles.cuh"
#include "kernels/cuda/scratch.h"
#include "kernels/cuda/vector.cuh"

namespace limbeck::kernels {
namespace {

constexpr int columns_of_tile = 32;
constexpr float log2_of_e = 1.4426950408889634F;
constexpr float infinity = __builtin_huge_valf();

/// What a query and head needs of the forward, by heads [first_head, ...) and places of the queries: a segment's begin
/// at a multiple of 64, and what is behind its last query has the terms of one whose probabilities are 0.
struct RowTerms {
  using Tiles = SegmentTiles<64>;
  float *logsumexp, *mean;  // [heads,places]: log2(e) logsumexp; sum of dout * out over the columns
  std::int64_t places;

  static std::int64_t num_places(const AttentionProblem& p) {
    return Tiles::numbers(p.num_queries, p.num_segments) * 64;
  }
  __device__ static std::int64_t first_place(const AttentionProblem& p, std::int64_t segment) {
    return Tiles{p.query_offsets, p.num_segments}.first_number(segment) * 64;
  }
};

struct BackwardTensors {
  const bf16 *q, *k, *v, *dout;
  float *dq, *dk, *dv;
  RowTerms terms;
  const Bounds* bounds;  // of tiles of columns
  AttentionReach reach;
  unsigned first_head = 0, num_heads = 0;  // of the launch's rows
};

/// The terms of four places of a head, a warp each, of which eight lanes have one.
struct TermsOfRows {
  RowTerms terms;
  RowTerms::Tiles tiles;
  const bf16 *out, *dout;
  const float* logsumexp;
  std::int64_t heads, first_head, value_width;

  __device__ void run(std::int64_t i, int lane) const {
    const std::int64_t of_head = terms.places / 4, place = i % of_head * 4 + lane / 8;
    SegmentTile tile;
    const bool is_tile = tiles.find(place / 64, tile);
    const int r = static_cast<int>(place % 64);
    float sum = 0, log = infinity;
    if (is_tile && r < tile.count) {
      const std::int64_t row = (tile.begin + tile.first + r) * heads + first_head + i / of_head;
      for (std::int64_t c = lane % 8 * 8; c < value_width; c += 64) {
        const auto x = load<8>(out + row * value_width + c), dx = load<8>(dout + row * value_width + c);
        for (int j = 0; j < 8; ++j) sum += x[j] * dx[j];
      }
      log = logsumexp[row] * log2_of_e;
    }
    for (int distance = 4; distance > 0; distance /= 2) sum += __shfl_xor_sync(full_warp, sum, distance);
    if (lane % 8 == 0) {
      terms.logsumexp[i / of_head * terms.places + place] = log;
      terms.mean[i / of_head * terms.places + place] = sum;
    }
  }
};

/// What a kernel's rows are, and what they get.
enum class Of { queries, keys, values, keys_and_values };

template <class Widths, Of of>
struct BackwardShape {
  static constexpr int width = Widths::width, value_width = Widths::value_width;
  static constexpr bool rows_are_keys = of != Of::queries;
  static constexpr bool sums_keys = of != Of::values;  // of the rows' q or k, else of v alone
  static constexpr bool sums_values = of == Of::values || of == Of::keys_and_values;
  // As in the forward, 32 rows a warp where the sums and both kinds of scores fit into the registers.
  static constexpr int sums = (sums_keys ? width : 0) + (sums_values ? value_width : 0);
  static constexpr int pieces = sums <= 128 ? 2 : 1;
  static constexpr bool keeps_rows = sums <= 64 && value_width <= 64;
  static constexpr int rows = width <= 192 ? 128 : 64;  // 256 wide: what fits into shared memory
  static constexpr int threads = rows / (16 * pieces) * 32;
  static constexpr int blocks = threads == 128 ? 2 : 1;  // of a multiprocessor, by their registers
  static constexpr int columns = columns_of_tile;
  using Rows = PaddedTile<rows, width>;
  using RowValues = PaddedTile<rows, value_width>;  // of v or dout
  using Columns = PaddedTile<columns, width>;
  using ColumnValues = PaddedTile<columns, value_width>;
  static constexpr int terms_bytes = rows_are_keys ? 2 * columns * 4 : 0;
  static constexpr int rows_bytes = Rows::bytes + (sums_keys ? RowValues::bytes : 0);
  static constexpr int stage_bytes = Columns::bytes + ColumnValues::bytes + terms_bytes;
  static constexpr std::size_t shared_bytes = rows_bytes + 2 * stage_bytes;
};

/// A tile of columns in shared memory.
template <class Shape>
struct Stage {
  typename Shape::Columns columns;
  typename Shape::ColumnValues values;
  float *logsumexp, *mean;  // [columns], of queries
  __device__ explicit Stage(unsigned char* memory)
      : columns{reinterpret_cast<bf16*>(memory)},
        values{reinterpret_cast<bf16*>(memory + Shape::Columns::bytes)},
        logsumexp(reinterpret_cast<float*>(memory + Shape::Columns::bytes + Shape::ColumnValues::bytes)),
        mean(logsumexp + Shape::columns) {}
};

/// A block's rows and the columns of their segment, in shared memory: products need the registers.
template <class Shape>
struct BlockRows {
  RowPlaces<Shape::rows> places;
  std::int64_t first_row;     // of the batch
  std::int64_t first_column;  // of the segment, in the batch
  int count, num_columns;
  const Bounds* bounds;  // of tiles of those columns
  AttentionReach reach;
  std::int64_t first_terms;  // of the segment's queries

  /// The whole block calls this, which waits for all.
  __device__ void fill(const AttentionProblem& p, const BackwardTensors& t, const SegmentTile& tile) {
    const std::int64_t* const offsets = Shape::rows_are_keys ? p.query_offsets : p.key_offsets;
    if (threadIdx.x == 0) {
      first_row = tile.begin + tile.first;
      count = tile.count;
      first_column = offsets[tile.segment];
      num_columns = static_cast<int>(offsets[tile.segment + 1] - first_column);
      bounds = t.bounds + SegmentTiles<Shape::columns>{offsets, p.num_segments}.first_number(tile.segment);
      reach = t.reach;
      first_terms = RowTerms::first_place(p, tile.segment) + (Shape::rows_are_keys ? 0 : tile.first);
    }
    const std::int32_t* const position = Shape::rows_are_keys ? p.key_position : p.query_position;
    const std::int32_t* const document = Shape::rows_are_keys ? p.key_document : p.query_document;
    places.fill(tile.count, [&](int r) {
      const std::int64_t at = tile.begin + tile.first + r;
      return Place{position[at], document[at]};
    });
    places.find_range((num_columns + Shape::columns - 1) / Shape::columns, [&](int i) { return may_see(i); });
  }
  __device__ int columns_left(int i) const { return num_columns - i * Shape::columns; }
  __device__ bool may_see(int i) const {
    return Shape::rows_are_keys ? kernels::may_see(reach, bounds[i], places.bounds)
                                : kernels::may_see(reach, places.bounds, bounds[i]);
  }
  /// All rows and columns of a tile, which is whole, see each other.
  __device__ bool see_all(int i) const {
    return columns_left(i) >= Shape::columns &&
           (Shape::rows_are_keys ? kernels::see_all(reach, bounds[i], places.bounds)
                                 : kernels::see_all(reach, places.bounds, bounds[i]));
  }
};

/// Scores -> probabilities; `logsumexp` of a row's half or of a column, as log2(e) times it.
template <class Shape, class F>
__device__ __forceinline__ void to_probabilities(float scale, F&& logsumexp,
                                                 Sums<Shape::pieces, Shape::columns>& scores) {
#pragma unroll
  for (int i = 0; i < Shape::pieces; ++i)
#pragma unroll
    for (int n = 0; n < Shape::columns / 8; ++n)
#pragma unroll
      for (int j = 0; j < 4; ++j) scores[i][n][j] = gpu::power_of_2(fmaf(scores[i][n][j], scale, -logsumexp(i, n, j)));
}

/// to [rows of the batch, ...] += factor sums, from the warp's rows on.
template <int Pieces, int Width>
__device__ __forceinline__ void add_to(float* to, std::int64_t pitch, int count, int width, float factor,
                                       const Sums<Pieces, Width>& sums) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
#pragma unroll
  for (int i = 0; i < Pieces; ++i)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int r = 16 * i + 8 * half + lane / 4;
      if (r >= count) continue;
#pragma unroll
      for (int n = 0; n < Width / 8; ++n)
        if (8 * n < width) {
          auto* const at = reinterpret_cast<float2*>(to + r * pitch + 8 * n + lane % 4 * 2);
          const float2 x = *at;
          *at = make_float2(x.x + factor * sums[i][n][2 * half], x.y + factor * sums[i][n][2 * half + 1]);
        }
    }
}

/// Block x: of the tiles of rows, those with most columns first, and of each for all of the launch's heads, the x-th.
template <class Widths, Of of>
__global__ void __launch_bounds__(BackwardShape<Widths, of>::threads, BackwardShape<Widths, of>::blocks)
    mma_gradient_kernel(const AttentionProblem p, const BackwardTensors t) {
  using Shape = BackwardShape<Widths, of>;
  __shared__ BlockRows<Shape> rows;
  unsigned char* const memory = gpu::dynamic_shared<unsigned char>();
  const typename Shape::Rows row_tile{reinterpret_cast<bf16*>(memory)};
  const typename Shape::RowValues row_values{reinterpret_cast<bf16*>(memory + Shape::Rows::bytes)};
  const auto stage = [&](int i) { return Stage<Shape>(memory + Shape::rows_bytes + i * Shape::stage_bytes); };

  SegmentTile tile;
  const SegmentTiles<Shape::rows> row_tiles{Shape::rows_are_keys ? p.key_offsets : p.query_offsets, p.num_segments};
  const unsigned head_of_launch = blockIdx.x % t.num_heads;
  if (!row_tiles.find((Shape::rows_are_keys ? blockIdx.x : gridDim.x - 1 - blockIdx.x) / t.num_heads, tile)) return;
  rows.fill(p, t, tile);
  if (rows.places.end <= rows.places.first) return;

  const int width = static_cast<int>(p.width), value_width = static_cast<int>(p.value_width);
  const int members = static_cast<int>(p.num_heads / p.num_kv_heads);
  const int head_of_rows = static_cast<int>(t.first_head + head_of_launch);
  // Rows of a head of q, k, v or dout, from one of the batch on.
  const auto fetch = [&](const auto& to, const bf16* from, std::int64_t row, int count, bool of_keys, int head,
                         int elements) {
    const std::int64_t pitch = (of_keys ? p.num_kv_heads : p.num_heads) * elements;
    const bf16* const first = from + row * pitch + std::int64_t{head} * elements;
    to.template copy<Shape::threads>(from, count, elements, [&](int r) { return first + r * pitch; });
  };
  const auto fetch_columns = [&](const Stage<Shape>& to, int head, int i) {
    const std::int64_t first = rows.first_column + i * Shape::columns;
    const int count = rows.columns_left(i);
    fetch(to.columns, Shape::rows_are_keys ? t.q : t.k, first, count, !Shape::rows_are_keys, head, width);
    fetch(to.values, Shape::rows_are_keys ? t.dout : t.v, first, count, !Shape::rows_are_keys, head, value_width);
    if constexpr (Shape::rows_are_keys) {
      const int c = static_cast<int>(threadIdx.x);
      const std::int64_t from =
          (head - t.first_head * members) * t.terms.places + rows.first_terms + i * Shape::columns + c % 8 * 4;
      static_assert(Shape::columns == 32);
      if (c < 16)
        gpu::copy_async((c < 8 ? to.logsumexp : to.mean) + c % 8 * 4,
                        (c < 8 ? t.terms.logsumexp : t.terms.mean) + from);
    }
  };
  fetch(row_tile, Shape::rows_are_keys ? t.k : t.q, rows.first_row, rows.count, Shape::rows_are_keys, head_of_rows,
        width);
  if constexpr (Shape::sums_keys)
    fetch(row_values, Shape::rows_are_keys ? t.v : t.dout, rows.first_row, rows.count, Shape::rows_are_keys,
          head_of_rows, value_width);

  // Columns are of one head, or of each that reads the rows'.
  int head = Shape::rows_are_keys ? head_of_rows * members : head_of_rows / members, at = rows.places.first;
  const int end_of_heads = Shape::rows_are_keys ? head + members : head + 1;
  fetch_columns(stage(0), head, at);
  gpu::commit_copies();

  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int first_row = static_cast<int>(threadIdx.x) / 32 * 16 * Shape::pieces;
  float row_logsumexp[Shape::pieces][2] = {}, row_mean[Shape::pieces][2] = {};
  if constexpr (!Shape::rows_are_keys) {
#pragma unroll
    for (int i = 0; i < Shape::pieces; ++i)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int r = first_row + 16 * i + 8 * half + lane / 4;
        const std::int64_t from = head_of_launch * t.terms.places + rows.first_terms + r;
        row_logsumexp[i][half] = r < rows.count ? t.terms.logsumexp[from] : infinity;
        row_mean[i][half] = r < rows.count ? t.terms.mean[from] : 0.F;
      }
  }
  const float scale = static_cast<float>(p.scale);
  Sums<Shape::pieces, Shape::width> sums = {};
  Sums<Shape::pieces, Shape::value_width> value_sums = {};
  gpu::wait_copies<0>();
  __syncthreads();
  const LeftRows<Shape::keeps_rows, Shape::pieces, Shape::rows, Shape::width> left(LyingRows{row_tile, first_row});
  const LeftRows<Shape::keeps_rows, Shape::pieces, Shape::rows, Shape::value_width> left_values(
      LyingRows{row_values, first_row});
  for (int turn = 0; head < end_of_heads; turn ^= 1) {
    gpu::wait_copies<0>();
    __syncthreads();  // this turn's columns are there, the last one's were read
    const int now = at;
    ++at;
    while (at < rows.places.end && !rows.may_see(at)) ++at;
    if (at == rows.places.end) {
      at = rows.places.first;
      ++head;
    }
    if (head < end_of_heads) fetch_columns(stage(turn ^ 1), head, at);
    gpu::commit_copies();

    const Stage<Shape> columns = stage(turn);
    // Of a lane's number j of columns [8 n, 8 n + 8): a term of its row's half, or of its column.
    const auto term = [&](const float(&of_rows)[Shape::pieces][2], const float* of_columns, int i, int n, int j) {
      return Shape::rows_are_keys ? of_columns[8 * n + lane % 4 * 2 + j % 2] : of_rows[i][j / 2];
    };
    Sums<Shape::pieces, Shape::columns> scores = {};
    multiply<Shape::pieces>(left, columns.columns, scores);
    to_probabilities<Shape>(
        scale * log2_of_e, [&](int i, int n, int j) { return term(row_logsumexp, columns.logsumexp, i, n, j); },
        scores);
    if (!rows.see_all(now)) {
      const std::int64_t first = rows.first_column + now * Shape::columns;
      SeenColumns<Shape::pieces> seen;
      seen.template find<Shape::rows_are_keys, Shape::columns>(
          t.reach, rows.places.places + first_row, (Shape::rows_are_keys ? p.query_position : p.key_position) + first,
          (Shape::rows_are_keys ? p.query_document : p.key_document) + first, rows.columns_left(now));
      seen.template mask<Shape::columns>(0.F, scores);
    }
    if constexpr (Shape::sums_values) add_weighted<Shape::pieces>(scores, columns.values, value_sums);
    if constexpr (Shape::sums_keys) {
      Sums<Shape::pieces, Shape::columns> gradients = {};  // of probabilities, then of scores
      multiply<Shape::pieces>(left_values, columns.values, gradients);
#pragma unroll
      for (int i = 0; i < Shape::pieces; ++i)
#pragma unroll
        for (int n = 0; n < Shape::columns / 8; ++n)
#pragma unroll
          for (int j = 0; j < 4; ++j)
            gradients[i][n][j] = scores[i][n][j] * (gradients[i][n][j] - term(row_mean, columns.mean, i, n, j));
      add_weighted<Shape::pieces>(gradients, columns.columns, sums);
    }
  }

  const std::int64_t heads = Shape::rows_are_keys ? p.num_kv_heads : p.num_heads;
  const std::int64_t first = (rows.first_row + first_row) * heads + head_of_rows;
  const int left_rows = rows.count - first_row;
  if constexpr (Shape::sums_keys)
    add_to<Shape::pieces, Shape::width>((Shape::rows_are_keys ? t.dk : t.dq) + first * width, heads * width, left_rows,
                                        width, scale, sums);
  if constexpr (Shape::sums_values)
    add_to<Shape::pieces, Shape::value_width>(t.dv + first * value_width, heads * value_width, left_rows, value_width,
                                              1.F, value_sums);
}

template <class Widths, Of of>
void launch_gradient(const Cuda& cuda, const AttentionProblem& p, BackwardTensors t, std::int64_t first_head,
                     std::int64_t num_heads) {
  using Shape = BackwardShape<Widths, of>;
  const std::int64_t tiles =
      SegmentTiles<Shape::rows>::numbers(Shape::rows_are_keys ? p.num_keys : p.num_queries, p.num_segments);
  t.first_head = static_cast<unsigned>(first_head);
  t.num_heads = static_cast<unsigned>(num_heads);
  gpu::launch(cuda, mma_gradient_kernel<Widths, of>, dim3(static_cast<unsigned>(tiles * num_heads)),
              dim3(Shape::threads), Shape::shared_bytes, p, t);
}

}  // namespace

void attention_backward_mma(const Cuda& cuda, const AttentionProblem& p, const bf16* q, const bf16* k, const bf16* v,
                            const bf16* out, const float* logsumexp, const bf16* dout, float* dq, float* dk,
                            float* dv) {
  if (p.num_queries == 0 || p.num_keys == 0) return;
  Scratch scratch(cuda);
  const auto bounds = [&](const std::int64_t* offsets, std::int64_t rows, const std::int32_t* position,
                          const std::int32_t* document) {
    using Tiles = SegmentTiles<columns_of_tile>;
    const std::int64_t tiles = Tiles::numbers(rows, p.num_segments);
    auto* of_tiles = scratch.take<Bounds>(tiles);
    for_each_row(cuda, tiles,
                 BoundsOfTiles<columns_of_tile>{Tiles{offsets, p.num_segments}, position, document, of_tiles});
    return of_tiles;
  };
  const Bounds* const of_queries = bounds(p.query_offsets, p.num_queries, p.query_position, p.query_document);
  const Bounds* const of_keys = bounds(p.key_offsets, p.num_keys, p.key_position, p.key_document);

  // As many key/value heads at once as there is room for the terms of their queries.
  const std::int64_t places = RowTerms::num_places(p);
  const std::int64_t members = p.num_heads / p.num_kv_heads, room = static_cast<std::int64_t>(scratch.left()) - 1024;
  const std::int64_t at_once =
      std::clamp<std::int64_t>(room / (2 * places * members * std::int64_t{sizeof(float)}), 1, p.num_kv_heads);
  auto* const of_logsumexp = scratch.take<float>(at_once * members * places);
  const RowTerms terms{of_logsumexp, scratch.take<float>(at_once * members * places), places};
  for (std::int64_t first = 0; first < p.num_kv_heads; first += at_once) {
    const std::int64_t count = std::min(at_once, p.num_kv_heads - first);
    for_each_row(cuda, count * members * places / 4,
                 TermsOfRows{terms,
                             {p.query_offsets, p.num_segments},
                             out,
                             dout,
                             logsumexp,
                             p.num_heads,
                             first * members,
                             p.value_width});
    with_widths(p, [&]<class Widths>(Widths) {
      BackwardTensors t{q, k, v, dout, dq, dk, dv, terms, of_keys, p.reach()};
      launch_gradient<Widths, Of::queries>(cuda, p, t, first * members, count * members);
      t.bounds = of_queries;
      if constexpr (Widths::width + Widths::value_width <= 128) {
        launch_gradient<Widths, Of::keys_and_values>(cuda, p, t, first, count);
      } else {  // both sums of 32 rows a warp do not fit into the registers
        launch_gradient<Widths, Of::keys>(cuda, p, t, first, count);
        launch_gradient<Widths, Of::values>(cuda, p, t, first, count);
      }
    });
  }
}

}  // namespace limbeck::kernels
