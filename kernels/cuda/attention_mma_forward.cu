// Rows of a block's tile are queries with each of the heads that read a key/value head, so that few queries share its
// keys too. A tile of keys is multiplied while its values are on their way, and the next keys come while those values
// are. Dao, "FlashAttention-2" (2023), algorithm 1.
//
// Of 2 x 2048 tokens, 16 heads, causal, without the halves of tiles that are masked: 17 GFLOP for heads of 64, 34 for
// 128; q, k, v and out are 34 and 67 MB (4 kv heads: 21 and 42), so arithmetic is what takes the time.
#include <algorithm>

#include "kernels/cuda/attention_mma.h"
#include "kernels/cuda/attention_mma_widths.h"
#include "kernels/cuda/attention_parts.cuh"

namespace limbeck::kernels {
namespace {

constexpr int rows_of_block = 128, keys_of_tile = 64;
using RowTiles = SegmentTiles<rows_of_block>;
constexpr float infinity = -lowest<float>;

struct ForwardTensors {
  const bf16 *q, *k, *v;
  bf16* out;
  float* logsumexp;
  const Bounds* bounds;  // of tiles of keys
  AttentionReach reach;
  const float* sinks;  // or none
  Parts<float> parts;
};

/// The softmax of a warp's rows over the keys so far: of lane / 4 + 8 half in each piece of 16. It lies in shared
/// memory, a column for each thread: products need the registers.
template <int Pieces, int Threads>
struct Softmax {
  struct Row {
    float reference[Threads], sum[Threads];  // of powers beside 2^reference; of the thread's own columns
  };
  Row rows[Pieces][2];

  __device__ float& reference(int i, int half) { return rows[i][half].reference[threadIdx.x]; }
  __device__ float& sum(int i, int half) { return rows[i][half].sum[threadIdx.x]; }

  __device__ void clear() {
    for (int i = 0; i < Pieces; ++i)
      for (int half = 0; half < 2; ++half) {
        reference(i, half) = -infinity;
        sum(i, half) = 0;
      }
  }

  /// Scores of the next keys -> their powers beside the reference, to which what was summed before is adapted.
  template <int Columns, int Width>
  __device__ __forceinline__ void add(float scale, Sums<Pieces, Columns>& scores, Sums<Pieces, Width>& result) {
#pragma unroll
    for (int i = 0; i < Pieces; ++i)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float greatest = -infinity;
#pragma unroll
        for (int n = 0; n < Columns / 8; ++n)
          greatest = max(greatest, max(scores[i][n][2 * half], scores[i][n][2 * half + 1]));
        greatest = max(greatest, __shfl_xor_sync(full_warp, greatest, 1));
        greatest = max(greatest, __shfl_xor_sync(full_warp, greatest, 2));
        const float before = reference(i, half), now = max(before, greatest * scale);
        // Nothing seen yet: beside any finite reference every power is 0.
        const float beside = now == -infinity ? 0.F : now;
        float total = 0;
#pragma unroll
        for (int n = 0; n < Columns / 8; ++n)
#pragma unroll
          for (int j = 0; j < 2; ++j) {
            float& score = scores[i][n][2 * half + j];
            score = gpu::power_of_2(fmaf(score, scale, -beside));
            total += score;
          }
        const float correction = gpu::power_of_2(before - beside);
        reference(i, half) = now;
        sum(i, half) = fmaf(sum(i, half), correction, total);
        if (!__any_sync(full_warp, correction != 1.F)) continue;
#pragma unroll
        for (int n = 0; n < Width / 8; ++n) {
          result[i][n][2 * half] *= correction;
          result[i][n][2 * half + 1] *= correction;
        }
      }
  }

  /// Of the whole row, after the last keys.
  __device__ float total(int i, int half) {
    float all = sum(i, half);
    all += __shfl_xor_sync(full_warp, all, 1);
    all += __shfl_xor_sync(full_warp, all, 2);
    return all;
  }
};

template <class Widths>
struct ForwardShape {
  static constexpr int width = Widths::width, value_width = Widths::value_width;
  // A warp has 32 rows, so that each factor of keys or values that it reads serves twice, or 16 where sums would not
  // fit into the registers.
  static constexpr int pieces = value_width <= 128 ? 2 : 1;
  static constexpr int threads = rows_of_block / (16 * pieces) * 32;
  static constexpr int blocks = threads == 128 ? 2 : 1;  // of a multiprocessor, by their registers
  static constexpr bool keeps_queries = width <= 64;
  using SoftmaxOfRows = Softmax<pieces, threads>;
  using Queries = PaddedTile<rows_of_block, width>;
  using Keys = PaddedTile<keys_of_tile, width>;
  using Values = PaddedTile<keys_of_tile, value_width>;
  using Results = PaddedTile<rows_of_block, value_width>;  // where the queries were
  static_assert(Results::bytes <= Queries::bytes);
  static constexpr std::size_t shared_bytes = Queries::bytes + Keys::bytes + Values::bytes;
};

struct ForwardRows : BlockRows<rows_of_block, keys_of_tile> {
  HeadRows k, v;
};

/// The warp's results by way of its own rows in shared memory, from which they go out in whole chunks.
template <class Shape>
__device__ __forceinline__ void write_results(const AttentionProblem& p, const ForwardTensors& t,
                                              const std::int64_t* numbers, bf16* memory,
                                              typename Shape::SoftmaxOfRows& softmax,
                                              const Sums<Shape::pieces, Shape::value_width>& result) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int first = static_cast<int>(threadIdx.x) / 32 * 16 * Shape::pieces;
  const typename Shape::Results results{memory};
#pragma unroll
  for (int i = 0; i < Shape::pieces; ++i)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int r = first + 16 * i + 8 * half + lane / 4;
      const float sum = softmax.total(i, half);
      const float* const sink = t.sinks == nullptr || numbers[r] < 0 ? nullptr : t.sinks + numbers[r] % p.num_heads;
      const auto [share, logsumexp] = whole_of(softmax.reference(i, half), sum, sink);
#pragma unroll
      for (int n = 0; n < Shape::value_width / 8; ++n)
        *reinterpret_cast<std::uint32_t*>(results.at(r, n) + lane % 4 * 2) =
            rounded_pair(result[i][n][2 * half] * share, result[i][n][2 * half + 1] * share);
      if (lane % 4 == 0 && numbers[r] >= 0) t.logsumexp[numbers[r]] = logsumexp;
    }
  __syncwarp();
  const int chunks = static_cast<int>(p.value_width) / 8;
  for (int i = lane; i < 16 * Shape::pieces * Shape::Results::chunks; i += 32) {
    const int r = first + i / Shape::Results::chunks, c = i % Shape::Results::chunks;
    if (numbers[r] >= 0 && c < chunks)
      *reinterpret_cast<uint4*>(t.out + numbers[r] * p.value_width + c * 8) =
          *reinterpret_cast<const uint4*>(results.at(r, c));
  }
}

/// The same before they are divided, for AddParts.
template <class Shape>
__device__ __forceinline__ void write_part(const AttentionProblem& p, const Parts<float>& parts,
                                           const std::int64_t* numbers, typename Shape::SoftmaxOfRows& softmax,
                                           const Sums<Shape::pieces, Shape::value_width>& result) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int first = static_cast<int>(threadIdx.x) / 32 * 16 * Shape::pieces;
#pragma unroll
  for (int i = 0; i < Shape::pieces; ++i)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int r = first + 16 * i + 8 * half + lane / 4;
      const float sum = softmax.total(i, half);
      if (numbers[r] < 0) continue;
      const std::int64_t row = blockIdx.y * parts.rows + numbers[r];
      if (lane % 4 == 0) parts.weights[row] = {softmax.reference(i, half), sum};
#pragma unroll
      for (int n = 0; n < Shape::value_width / 8; ++n)
        if (8 * n < p.value_width)
          *reinterpret_cast<float2*>(parts.sums + row * p.value_width + 8 * n + lane % 4 * 2) =
              make_float2(result[i][n][2 * half], result[i][n][2 * half + 1]);
    }
}

/// Block (x, y): of the tiles of rows, which begin with the last, for late queries see most keys, and of each for all
/// key/value heads, the x-th; the y-th part of the keys.
template <class Widths>
__global__ void __launch_bounds__(ForwardShape<Widths>::threads, ForwardShape<Widths>::blocks)
    mma_forward_kernel(const AttentionProblem p, const ForwardTensors t) {
  using Shape = ForwardShape<Widths>;
  __shared__ ForwardRows rows;
  __shared__ typename Shape::SoftmaxOfRows softmax;
  bf16* const memory = gpu::dynamic_shared<bf16>();
  const typename Shape::Queries queries{memory};
  const typename Shape::Keys keys{memory + Shape::Queries::bytes / 2};
  const typename Shape::Values values{memory + (Shape::Queries::bytes + Shape::Keys::bytes) / 2};

  SegmentTile tile;
  const int members = static_cast<int>(p.num_heads / p.num_kv_heads);
  const RowTiles row_tiles{p.query_offsets, p.num_segments, members};
  const auto kv_heads = static_cast<unsigned>(p.num_kv_heads);
  if (!row_tiles.find((gridDim.x - 1 - blockIdx.x) / kv_heads, tile)) return;
  const unsigned kv_head = blockIdx.x % kv_heads;
  if (threadIdx.x == 0) {
    rows.k.set(t.k, p.num_kv_heads, kv_head, p.width, p.width);
    rows.v.set(t.v, p.num_kv_heads, kv_head, p.value_width, p.value_pitch());
  }
  rows.fill(p, t.reach, t.bounds, tile, kv_head, members);
  softmax.clear();
  queries.template copy<Shape::threads>(t.q, tile.count, rows.k.width,
                                        [&](int r) { return t.q + rows.numbers[r] * p.width; });
  const auto [begin, end] = rows.find_range(blockIdx.y, gridDim.y);
  const auto next_seen = [&rows = rows, end = end](int i) {
    while (i < end && !rows.may_see(i)) ++i;
    return i;
  };
  const auto fetch = [&](const auto& to, const HeadRows& from, int i) {
    from.copy<Shape::threads>(to, p.row_of_key(rows.first_key + i * keys_of_tile), rows.num_keys - i * keys_of_tile);
  };

  int at = next_seen(begin);
  if (at < end) fetch(keys, rows.k, at);
  gpu::commit_copies();
  gpu::wait_copies<0>();
  __syncthreads();
  const int first_row = static_cast<int>(threadIdx.x) / 32 * 16 * Shape::pieces;
  const LeftRows<Shape::keeps_queries, Shape::pieces, rows_of_block, Shape::width> left(LyingRows{queries, first_row});
  const float scale = static_cast<float>(p.scale) * log2_of_e<float>;
  Sums<Shape::pieces, Shape::value_width> result = {};
  while (at < end) {
    fetch(values, rows.v, at);
    gpu::commit_copies();
    Sums<Shape::pieces, keys_of_tile> scores = {};
    multiply<Shape::pieces>(left, keys, scores);
    gpu::wait_copies<0>();
    __syncthreads();  // the values are there, the keys were read
    const int now = at;
    at = next_seen(now + 1);
    if (at < end) fetch(keys, rows.k, at);
    gpu::commit_copies();
    if (!rows.see_all(now)) {
      const std::int64_t first = rows.first_key + now * keys_of_tile;
      SeenColumns<Shape::pieces> seen;
      seen.template find<false, keys_of_tile>(t.reach, rows.places.places + first_row, p.key_position + first,
                                              p.key_document + first, rows.num_keys - now * keys_of_tile);
      seen.template mask<keys_of_tile>(-infinity, scores);
    }
    softmax.template add<keys_of_tile, Shape::value_width>(scale, scores, result);
    add_weighted<Shape::pieces>(scores, values, result);
    gpu::wait_copies<0>();
    __syncthreads();  // the next keys are there, the values were read
  }
  if (gridDim.y == 1)
    write_results<Shape>(p, t, rows.numbers, memory, softmax, result);
  else
    write_part<Shape>(p, t.parts, rows.numbers, softmax, result);
}

/// In how many parts the keys are summed: more than one where blocks are too few for the multiprocessors, of at least
/// four tiles in the mean, and no more than there is scratch memory for. Of a window's keys alone, where there is one.
std::int64_t num_parts(const Cuda& cuda, const AttentionProblem& p, std::int64_t blocks) {
  const std::int64_t room = static_cast<std::int64_t>(CudaState::workspace_bytes) / 2;
  const std::int64_t in_mean = p.num_keys / p.num_segments;
  const std::int64_t seen = p.window > 0 ? std::min(p.window, in_mean) : in_mean;
  return std::max<std::int64_t>(1, std::min({2 * cuda.state->num_multiprocessors / blocks, seen / (4 * keys_of_tile),
                                             room / Parts<float>::bytes(p)}));
}

}  // namespace

bool tensor_cores_take(const AttentionProblem& p, std::initializer_list<const void*> pointers) {
  const auto is_width = [](std::int64_t width) { return width > 0 && width <= 256 && width % 8 == 0; };
  return is_width(p.width) && is_width(p.value_width) && p.scale > 0 &&
         std::all_of(pointers.begin(), pointers.end(),
                     [](const void* at) { return reinterpret_cast<std::uintptr_t>(at) % 16 == 0; });
}

void attention_forward_mma(const Cuda& cuda, const AttentionProblem& p, const bf16* q, const bf16* k, const bf16* v,
                           bf16* out, float* logsumexp, const float* sinks) {
  const std::int64_t rows = p.num_queries * p.num_heads;
  if (rows == 0) return;
  Scratch scratch(cuda);
  const Bounds* const bounds = bounds_of_keys<keys_of_tile>(cuda, scratch, p);
  const std::int64_t tiles = RowTiles::numbers(rows / p.num_kv_heads, p.num_segments);
  const std::int64_t parts = num_parts(cuda, p, tiles * p.num_kv_heads);
  ForwardTensors t{q, k, v, out, logsumexp, bounds, p.reach(), sinks, {}};
  if (parts > 1) t.parts = Parts<float>::take(scratch, p, parts);
  const dim3 blocks(static_cast<unsigned>(tiles * p.num_kv_heads), static_cast<unsigned>(parts));
  with_widths(p, [&]<class Widths>(Widths) {
    using Shape = ForwardShape<Widths>;
    gpu::launch(cuda, mma_forward_kernel<Widths>, blocks, dim3(Shape::threads), Shape::shared_bytes, p, t);
  });
  if (parts > 1) add_parts(cuda, p, t.parts, parts, out, logsumexp, sinks);
}

}  // namespace limbeck::kernels
