// On the tensor cores: two warps have 16 rows. Each has the scores of half of a tile's 32 keys; they agree on the
// reference of a row, and put their weights side by side, by way of shared memory; then each has half of the result's
// columns. The next keys are on their way meanwhile.
//
// A tile of 32 keys and 64 rows are 4.5 MFLOP and 434 KB of factors out of shared memory.
#include "kernels/cuda/attention_latent.cuh"
#include "kernels/cuda/attention_mma_widths.h"

namespace limbeck::kernels {
namespace {

constexpr int keys_of_tile = 32, keys_of_warp = 16;

template <class Widths, int Groups>
struct LatentShape {
  static constexpr int rows = 16 * Groups, threads = 64 * Groups;
  static constexpr int width = Widths::width, own_columns = Widths::value_width / 2;
  static constexpr int blocks = Groups == 1 ? 2 : 1;  // of a multiprocessor, by shared memory
  using Queries = PaddedTile<rows, width>;
  using Keys = PaddedTile<keys_of_tile, width>;
  using Weights = PaddedTile<rows, keys_of_tile>;
  static_assert(width % 32 == 0 && Widths::value_width <= width);
  static constexpr std::size_t shared_bytes = Queries::bytes + 2 * Keys::bytes + Weights::bytes;
};

/// scores = rows [16,Width], from `row` on, times 16 keys, from `key` on, transposed: in two chains of products.
template <class Queries, class Keys>
__device__ __forceinline__ void multiply_keys(const Queries& queries, int row, const Keys& keys, int key,
                                              Sums<1, keys_of_warp>& scores) {
  Sums<1, keys_of_warp> odd = {};
#pragma unroll 3  // all of them would need more registers
  for (int k = 0; k < 8 * Keys::chunks; k += 32) {
    std::uint32_t a[4], b[4];
    left_factor(queries, row, k, a);
    right_factors(keys, key, k, b);
    multiply_add_pair(scores[0][0], scores[0][1], a, b);
    left_factor(queries, row, k + 16, a);
    right_factors(keys, key, k + 16, b);
    multiply_add_pair(odd[0][0], odd[0][1], a, b);
  }
#pragma unroll
  for (int n = 0; n < keys_of_warp / 8; ++n)
#pragma unroll
    for (int j = 0; j < 4; ++j) scores[0][n][j] += odd[0][n][j];
}

/// result = result times `correction`, of each of a thread's two rows, + weights [16,32], from `row` on, times the
/// values of 32 keys from `column` on.
template <int Columns, class Weights, class Keys>
__device__ __forceinline__ void add_values(const Weights& weights, int row, const Keys& keys, int column,
                                           const float (&correction)[2], Sums<1, Columns>& result) {
#pragma unroll
  for (int n = 0; n < Columns / 8; ++n)
#pragma unroll
    for (int j = 0; j < 4; ++j) result[0][n][j] *= correction[j / 2];
#pragma unroll
  for (int k = 0; k < keys_of_tile; k += 16) {
    std::uint32_t a[4];
    left_factor(weights, row, k, a);
#pragma unroll
    for (int n = 0; n < Columns; n += 16) {
      std::uint32_t b[4];
      right_factors_transposed(keys, column + n, k, b);
      multiply_add_pair(result[0][n / 8], result[0][n / 8 + 1], a, b);
    }
  }
}

/// The softmax of a thread's two rows, of lane / 4 and 8 below, over the keys so far.
struct RowSoftmax {
  float reference[2] = {lowest<float>, lowest<float>};
  float sum[2] = {};  // of powers beside 2^reference, of the thread's own columns

  /// Of the warp's scores of a row.
  static __device__ __forceinline__ float greatest(const Sums<1, keys_of_warp>& scores, int half) {
    float all = lowest<float>;
#pragma unroll
    for (int n = 0; n < keys_of_warp / 8; ++n) all = max(all, max(scores[0][n][2 * half], scores[0][n][2 * half + 1]));
    all = max(all, __shfl_xor_sync(full_warp, all, 1));
    return max(all, __shfl_xor_sync(full_warp, all, 2));
  }
  /// Scores -> powers beside the reference, of a row whose greatest one is given; what was summed before them is to be
  /// multiplied by what this returns.
  __device__ __forceinline__ float add(int half, float greatest, float scale, Sums<1, keys_of_warp>& scores) {
    const float before = reference[half], now = max(before, greatest * scale);
    // Nothing seen yet: beside any finite reference every power is 0.
    const float beside = now == lowest<float> ? 0.F : now;
    const float correction = gpu::power_of_2(before - beside);
    reference[half] = now;
    sum[half] *= correction;
#pragma unroll
    for (int n = 0; n < keys_of_warp / 8; ++n)
#pragma unroll
      for (int j = 2 * half; j < 2 * half + 2; ++j) {
        scores[0][n][j] = gpu::power_of_2(fmaf(scores[0][n][j], scale, -beside));
        sum[half] += scores[0][n][j];
      }
    return correction;
  }
  /// Of the thread's four lanes.
  __device__ float total(int half) const {
    const float pair = sum[half] + __shfl_xor_sync(full_warp, sum[half], 1);
    return pair + __shfl_xor_sync(full_warp, pair, 2);
  }
};

/// A row's results, of the columns from `first` on that the thread has, or a part of them.
template <int Columns>
__device__ __forceinline__ void write_row(const AttentionProblem& p, const LatentTensors<bf16>& t, std::int64_t number,
                                          int half, float reference, float sum, int first,
                                          const Sums<1, Columns>& result) {
  const int lane = static_cast<int>(threadIdx.x) % 32, value_width = static_cast<int>(p.value_width);
  const bool is_whole = gridDim.y == 1, is_first = first == 0 && lane % 4 == 0;
  const std::int64_t row = is_whole ? number : blockIdx.y * t.parts.rows + number;
  const Whole<float> whole = whole_of(reference, sum, t.sink(number, p.num_heads));
  if (is_first && is_whole) t.logsumexp[row] = whole.logsumexp;
  if (is_first && !is_whole) t.parts.weights[row] = {reference, sum};
#pragma unroll
  for (int n = 0; n < Columns / 8; ++n) {
    if (first + 8 * n >= value_width) continue;
    const std::int64_t at = row * value_width + first + 8 * n + lane % 4 * 2;
    const float low = result[0][n][2 * half], high = result[0][n][2 * half + 1];
    if (is_whole)
      *reinterpret_cast<std::uint32_t*>(t.out + at) = rounded_pair(low * whole.share, high * whole.share);
    else
      *reinterpret_cast<float2*>(t.parts.sums + at) = make_float2(low, high);
  }
}

template <class Shape>
__global__ void __launch_bounds__(Shape::threads, Shape::blocks)
    latent_mma_kernel(const AttentionProblem p, const LatentTensors<bf16> t) {
  __shared__ BlockRows<Shape::rows, keys_of_tile> rows;
  __shared__ HeadRows matrix;                 // of keys
  __shared__ float of_sides[2][Shape::rows];  // of a row: what its two warps have
  bf16* const memory = gpu::dynamic_shared<bf16>();
  const typename Shape::Queries queries{memory};
  bf16* const keys_memory = memory + Shape::Queries::bytes / 2;
  const typename Shape::Weights weights{keys_memory + Shape::Keys::bytes};  // behind two tiles of keys
  SegmentTile tile;
  if (threadIdx.x == 0) matrix.set(t.k, p.num_kv_heads, blockIdx.x % p.num_kv_heads, p.width, p.width);
  if (!find_rows(p, t, tile, rows)) return;
  queries.template copy<Shape::threads>(t.q, tile.count, matrix.width,
                                        [&](int r) { return t.q + rows.numbers[r] * p.width; });
  const auto [begin, end] = rows.find_range(blockIdx.y, gridDim.y);
  const auto next_seen = [&rows = rows, end = end](int i) {
    while (i < end && !rows.may_see(i)) ++i;
    return i;
  };
  const auto keys_at = [&](int place) { return typename Shape::Keys{keys_memory + place * (Shape::Keys::bytes / 2)}; };
  const auto fetch = [&](int place, int i) {
    matrix.copy<Shape::threads>(keys_at(place), p.row_of_key(rows.first_key + i * keys_of_tile),
                                rows.num_keys - i * keys_of_tile);
  };

  const int lane = static_cast<int>(threadIdx.x) % 32, side = static_cast<int>(threadIdx.x) / 32 % 2;
  const int first_row = static_cast<int>(threadIdx.x) / 64 * 16, own_row = first_row + lane / 4;
  const int own_key = keys_of_warp * side, own_column = Shape::own_columns * side;
  const float scale = static_cast<float>(p.scale) * log2_of_e<float>;
  RowSoftmax softmax;
  Sums<1, Shape::own_columns> result = {};
  int at = next_seen(begin);
  if (at < end) fetch(0, at);
  gpu::commit_copies();
  for (int place = 0; at < end; place ^= 1) {
    const int now = at, first_key = now * keys_of_tile + own_key;
    at = next_seen(now + 1);
    gpu::wait_copies<0>();
    __syncthreads();  // the keys are there, those before were read
    if (at < end) fetch(place ^ 1, at);
    gpu::commit_copies();
    Sums<1, keys_of_warp> scores = {};
    multiply_keys(queries, first_row, keys_at(place), own_key, scores);
    if (!rows.see_all(now)) {
      const std::int64_t first = rows.first_key + first_key;
      SeenColumns<1> seen;
      seen.template find<false, keys_of_warp>(t.reach, rows.places.places + first_row, p.key_position + first,
                                              p.key_document + first, rows.num_keys - first_key);
      seen.template mask<keys_of_warp>(lowest<float>, scores);
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float greatest = RowSoftmax::greatest(scores, half);
      if (lane % 4 == 0) of_sides[side][own_row + 8 * half] = greatest;
    }
    __syncthreads();  // both sides' are there
    float correction[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int r = own_row + 8 * half;
      correction[half] = softmax.add(half, max(of_sides[0][r], of_sides[1][r]), scale, scores);
#pragma unroll
      for (int n = 0; n < keys_of_warp / 8; ++n)
        *reinterpret_cast<std::uint32_t*>(weights.at(r, own_key / 8 + n) + lane % 4 * 2) =
            rounded_pair(scores[0][n][2 * half], scores[0][n][2 * half + 1]);
    }
    __syncthreads();  // both sides' weights are there
    add_values<Shape::own_columns>(weights, first_row, keys_at(place), own_column, correction, result);
  }
  gpu::wait_copies<0>();
  __syncthreads();  // the greatest scores were read
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const float total = softmax.total(half);
    if (lane % 4 == 0) of_sides[side][own_row + 8 * half] = total;
  }
  __syncthreads();
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int r = own_row + 8 * half;
    if (rows.numbers[r] >= 0)
      write_row<Shape::own_columns>(p, t, rows.numbers[r], half, softmax.reference[half],
                                    of_sides[0][r] + of_sides[1][r], own_column, result);
  }
}

/// f(HeadWidths) for those of the problem: others are wider ones with zeros behind them.
template <class F>
void with_latent_widths(const AttentionProblem& p, F&& f) {
  if (p.width <= 288 && p.value_width <= 256)
    f(HeadWidths<288, 256>());
  else
    f(HeadWidths<576, 512>());
}

/// f(std::integral_constant) with the groups of 16 rows that a block has: no more than a segment's queries have in the
/// mean.
template <class F>
void with_groups(const AttentionProblem& p, F&& f) {
  const std::int64_t segments = std::min(p.num_segments, p.num_queries);
  const std::int64_t rows = p.num_queries * (p.num_heads / p.num_kv_heads);
  if (rows <= 16 * segments)
    f(std::integral_constant<int, 1>());
  else if (rows <= 32 * segments)
    f(std::integral_constant<int, 2>());
  else
    f(std::integral_constant<int, 4>());
}

}  // namespace

bool latent_tensor_cores_take(const AttentionProblem& p, std::initializer_list<const void*> pointers) {
  const auto is_width = [](std::int64_t width, std::int64_t most) {
    return width > 0 && width <= most && width % 8 == 0;
  };
  return p.values_in_keys && is_width(p.width, widest_latent) && is_width(p.value_width, 512) && p.scale > 0 &&
         std::all_of(pointers.begin(), pointers.end(),
                     [](const void* at) { return reinterpret_cast<std::uintptr_t>(at) % 16 == 0; });
}

void attention_latent_mma(const Cuda& cuda, const AttentionProblem& p, const bf16* q, const bf16* k, bf16* out,
                          float* logsumexp, const float* sinks) {
  with_latent_widths(p, [&]<class Widths>(Widths) {
    with_groups(p, [&](auto groups) {
      using Shape = LatentShape<Widths, decltype(groups)::value>;
      run_latent<Shape::rows, keys_of_tile>(cuda, p, LatentTensors<bf16>{q, k, out, logsumexp, sinks}, Shape::blocks,
                                            [&](dim3 blocks, const LatentTensors<bf16>& t) {
                                              gpu::launch(cuda, latent_mma_kernel<Shape>, blocks, dim3(Shape::threads),
                                                          Shape::shared_bytes, p, t);
                                            });
    });
  });
}

}  // namespace limbeck::kernels
