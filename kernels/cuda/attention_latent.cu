// With plain arithmetic: a warp has two rows, a lane a key, or columns of the result. Float64 has tiles of 16 keys, for
// twice as wide numbers in shared memory.
#include "kernels/cuda/attention_latent.cuh"
#include "kernels/cuda/attention_rows.cuh"

namespace limbeck::kernels {
namespace {

constexpr int rows_of_block = 2 * attention_warps, own_rows = 2;
template <class T>
constexpr int keys_of_tile = sizeof(Acc<T>) == 8 ? 16 : 32;

/// Rows of `width` values in shared memory, a warp by turns to each, one value apart from being a multiple of the
/// banks.
template <class A>
struct WideRows {
  A* values;
  int width;

  static constexpr std::int64_t elements(std::int64_t rows, std::int64_t width) { return rows * (width + 1); }
  __device__ A* row(int r) const { return values + r * (width + 1); }
  template <class F>
  __device__ void read(int count, F&& row_at) const {
    for (int r = warp_index(); r < count; r += attention_warps) {
      const auto* const from = row_at(r);
      for (int c = lane_index(); c < width; c += 32) row(r)[c] = as<A>(from[c]);
    }
  }
};

template <class T, int Chunks>
__global__ void __launch_bounds__(attention_threads, 1)
    latent_kernel(const AttentionProblem p, const LatentTensors<T> t) {
  using A = Acc<T>;
  __shared__ BlockRows<rows_of_block, keys_of_tile<T>> rows;
  const int width = static_cast<int>(p.width), value_width = static_cast<int>(p.value_width);
  const WideRows<A> queries{gpu::dynamic_shared<A>(), width}, keys{queries.row(rows_of_block), width};
  SegmentTile tile;
  if (!find_rows(p, t, tile, rows)) return;
  queries.read(tile.count, [&](int r) { return t.q + rows.numbers[r] * width; });

  const int first_row = own_rows * warp_index(), lane = lane_index();
  const A scale = static_cast<A>(p.scale) * log2_of_e<A>;
  A reference[own_rows], sum[own_rows], result[own_rows][Chunks] = {};
#pragma unroll
  for (int i = 0; i < own_rows; ++i) {
    reference[i] = lowest<A>;
    sum[i] = 0;
  }
  const std::int64_t kv_head = blockIdx.x % p.num_kv_heads, pitch = p.num_kv_heads * width;
  const auto [begin, end] = rows.find_range(blockIdx.y, gridDim.y);
  for (int now = begin; now < end; ++now) {
    if (!rows.may_see(now)) continue;  // alike for the block
    const std::int64_t first = rows.first_key + now * keys_of_tile<T>;
    const int count = min(rows.num_keys - now * keys_of_tile<T>, keys_of_tile<T>);
    const T* const from = t.k + p.row_of_key(first) * pitch + kv_head * width;
    __syncthreads();  // the keys before were read
    keys.read(count, [&](int r) { return from + r * pitch; });
    __syncthreads();
    A weight[own_rows];
#pragma unroll
    for (int i = 0; i < own_rows; ++i) {
      const bool is_seen = lane < count && sees(rows.reach, rows.places.places[first_row + i],
                                                {p.key_position[first + lane], p.key_document[first + lane]});
      const A score = is_seen ? dot(queries.row(first_row + i), keys.row(lane), width) * scale : lowest<A>;
      const A greatest = warp_reduce(score, Larger{});
      if (greatest > reference[i]) {  // alike in the warp
        const A correction = raised_2(reference[i] - greatest);
        sum[i] *= correction;
#pragma unroll
        for (int c = 0; c < Chunks; ++c) result[i][c] *= correction;
        reference[i] = greatest;
      }
      weight[i] = is_seen ? raised_2(score - reference[i]) : A{0};
      sum[i] += warp_sum(weight[i]);
      weight[i] = as_factor<T>(weight[i]);
    }
    for (int r = 0; r < count; ++r) {
      A of_row[own_rows];
#pragma unroll
      for (int i = 0; i < own_rows; ++i) of_row[i] = __shfl_sync(full_warp, weight[i], r);
#pragma unroll
      for (int c = 0; c < Chunks; ++c)
        if (const int column = lane + 32 * c; column < value_width) {
          const A value = keys.row(r)[column];
#pragma unroll
          for (int i = 0; i < own_rows; ++i) result[i][c] += of_row[i] * value;
        }
    }
  }
#pragma unroll
  for (int i = 0; i < own_rows; ++i) {
    const std::int64_t number = rows.numbers[first_row + i];
    if (number < 0) continue;
    const bool is_whole = gridDim.y == 1;
    const Whole<A> whole = whole_of(reference[i], sum[i], t.sink(number, p.num_heads));
    const std::int64_t row = is_whole ? number : blockIdx.y * t.parts.rows + number;
#pragma unroll
    for (int c = 0; c < Chunks; ++c)
      if (const int column = lane + 32 * c; column < value_width) {
        if (is_whole)
          t.out[row * value_width + column] = as<T>(result[i][c] * whole.share);
        else
          t.parts.sums[row * value_width + column] = result[i][c];
      }
    if (lane > 0) continue;
    if (is_whole)
      t.logsumexp[row] = whole.logsumexp;
    else
      t.parts.weights[row] = {reference[i], sum[i]};
  }
}

/// f(std::integral_constant) with the chunks of 32 columns that a width needs: 2, 8, 16 or 18.
template <class F>
void with_latent_chunks(std::int64_t width, F&& f) {
  if (width <= 64)
    f(std::integral_constant<int, 2>());
  else if (width <= 256)
    f(std::integral_constant<int, 8>());
  else if (width <= 512)
    f(std::integral_constant<int, 16>());
  else
    f(std::integral_constant<int, widest_latent / 32>());
}

}  // namespace

template <class T>
void attention_latent(const Cuda& cuda, const AttentionProblem& p, const T* q, const T* k, T* out, Acc<T>* logsumexp,
                      const Acc<T>* sinks) {
  if (p.width > widest_latent)
    throw std::runtime_error("attention: heads that hold their values are at most " + std::to_string(widest_latent) +
                             " wide on a GPU, not " + std::to_string(p.width));
  const auto shared =
      static_cast<std::size_t>(WideRows<Acc<T>>::elements(rows_of_block + keys_of_tile<T>, p.width)) * sizeof(Acc<T>);
  with_latent_chunks(p.value_width, [&](auto chunks) {
    run_latent<rows_of_block, keys_of_tile<T>>(
        cuda, p, LatentTensors<T>{q, k, out, logsumexp, sinks}, 1, [&](dim3 blocks, const LatentTensors<T>& t) {
          gpu::launch(cuda, latent_kernel<T, decltype(chunks)::value>, blocks, dim3(attention_threads), shared, p, t);
        });
  });
}

#define LIMBECK_INSTANTIATE(T) \
  template void attention_latent(const Cuda&, const AttentionProblem&, const T*, const T*, T*, Acc<T>*, const Acc<T>*);
LIMBECK_INSTANTIATE(float)
LIMBECK_INSTANTIATE(double)
LIMBECK_INSTANTIATE(bf16)

}  // namespace limbeck::kernels
