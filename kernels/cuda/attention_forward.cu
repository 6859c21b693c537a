#include <algorithm>
#include <cmath>

#include "kernels/attention.h"
#include "kernels/cuda/attention_latent.h"
#include "kernels/cuda/attention_mma.h"
#include "kernels/cuda/attention_rows.cuh"
#include "kernels/cuda/packed_attention.h"

namespace limbeck::kernels {
namespace {

template <class A>
constexpr A infinity = static_cast<A>(HUGE_VAL);

template <class T, int Chunks>
__global__ void __launch_bounds__(attention_threads, 1)
    forward_kernel(const AttentionProblem p, const T* q, const T* k, const T* v, T* out, Acc<T>* logsumexp,
                   const Acc<T>* sinks) {
  using A = Acc<T>;
  __shared__ int flag;
  const int width = static_cast<int>(p.width), value_width = static_cast<int>(p.value_width);
  TileMemory<A> memory{gpu::dynamic_shared<A>()};
  const RowsTile<A> queries = memory.take(width), keys = memory.take(width), values = memory.take(value_width);
  const GroupedProblem tiles{.groups = p.num_segments, .n = p.num_heads, .offsets = p.query_offsets};
  TileTurns turns(tiles, reinterpret_cast<std::int64_t*>(memory.next), attention_tile, 1);

  for (Tile tile; turns.next(tile);) {
    const std::int64_t head = tile.column, kv_head = head / (p.num_heads / p.num_kv_heads);
    const std::int64_t first_query = tile.first + tile.row;
    const int num_queries = rows_left(tile.count, tile.row);
    __syncthreads();
    queries.read(q, p.num_heads * width, head * width, num_queries, [&](int r) { return first_query + r; });

    A maximum[rows_of_warp], sum[rows_of_warp];
    RowSums<A, Chunks> result[rows_of_warp];
#pragma unroll
    for (int i = 0; i < rows_of_warp; ++i) {
      maximum[i] = -infinity<A>;
      sum[i] = 0;
    }
    const std::int64_t end_of_keys = p.key_offsets[tile.group + 1];
    for (std::int64_t first_key = p.key_offsets[tile.group]; first_key < end_of_keys; first_key += attention_tile) {
      const int num_keys = rows_left(end_of_keys, first_key);
      if (!any_sees(p, first_query, num_queries, first_key, num_keys, &flag)) continue;
      const auto row_of = [&](int r) { return p.row_of_key(first_key + r); };
      keys.read(k, p.num_kv_heads * width, kv_head * width, num_keys, row_of);
      values.read(v, p.num_kv_heads * value_width, kv_head * value_width, num_keys, row_of);
      __syncthreads();
#pragma unroll
      for (int i = 0; i < rows_of_warp; ++i) {
        const int r = warp_index() * rows_of_warp + i;
        const bool is_seen =
            r < num_queries && lane_index() < num_keys && sees(p, first_query + r, first_key + lane_index());
        const A score =
            is_seen ? dot(queries.row(r), keys.row(lane_index()), width) * static_cast<A>(p.scale) : -infinity<A>;
        const A greatest = warp_reduce(score, Larger{});
        if (greatest > maximum[i]) {  // alike in the warp
          const A factor = std::exp(maximum[i] - greatest);
          sum[i] *= factor;
          result[i].scale(factor);
          maximum[i] = greatest;
        }
        const A probability = is_seen ? std::exp(score - maximum[i]) : A{0};
        sum[i] += warp_sum(probability);
        result[i].add_weighted(as_factor<T>(probability), values);
      }
    }
#pragma unroll
    for (int i = 0; i < rows_of_warp; ++i) {
      const int r = warp_index() * rows_of_warp + i;
      if (r >= num_queries) continue;
      const std::int64_t query = first_query + r;
      A share = sum[i] > 0 ? 1 / sum[i] : A{0};
      if (sinks != nullptr) {
        const A greatest = Larger{}(sinks[head], maximum[i]);
        const A factor = std::exp(maximum[i] - greatest);
        sum[i] = sum[i] * factor + std::exp(sinks[head] - greatest);
        maximum[i] = greatest;
        share = factor / sum[i];
      }
      T* const to = out + (query * p.num_heads + head) * value_width;
      result[i].for_each(value_width, [&](int column, A x) { to[column] = as<T>(x * share); });
      if (lane_index() == 0)
        logsumexp[query * p.num_heads + head] = sum[i] > 0 ? maximum[i] + std::log(sum[i]) : -infinity<A>;
    }
  }
}

template <class T>
void run_plain(const Cuda& cuda, const AttentionProblem& problem, const T* q, const T* k, const T* v, T* out,
               Acc<T>* logsumexp, const Acc<T>* sinks) {
  using A = Acc<T>;
  check_segments(problem);
  const std::size_t shared =
      static_cast<std::size_t>(2 * RowsTile<A>::elements(problem.width) + RowsTile<A>::elements(problem.value_width)) *
          sizeof(A) +
      static_cast<std::size_t>(problem.num_segments) * sizeof(std::int64_t);
  with_chunks(problem.value_width, [&](auto chunks) {
    gpu::launch(cuda, forward_kernel<T, decltype(chunks)::value>,
                dim3(static_cast<unsigned>(4 * cuda.state->num_multiprocessors)), dim3(attention_threads), shared,
                problem, q, k, v, out, logsumexp, sinks);
  });
}

}  // namespace

template <class D, class T>
void attention_forward(const D& cuda, const AttentionProblem& problem, const T* q, const T* k, const T* v, T* out,
                       Acc<T>* logsumexp, const Acc<T>* sinks) {
  check_extents(problem);
  if (problem.num_segments == 0 || problem.num_heads == 0) return;
  if constexpr (std::is_same_v<T, bf16>) {
    if (sinks == nullptr && !problem.values_in_keys && packed_attention_forward(cuda, problem, q, k, v, out, logsumexp))
      return;
    if (tensor_cores_take(problem, {q, k, v, out}))
      return attention_forward_mma(cuda, problem, q, k, v, out, logsumexp, sinks);
    if (latent_tensor_cores_take(problem, {q, k, out}))
      return attention_latent_mma(cuda, problem, q, k, out, logsumexp, sinks);
  }
  if (problem.values_in_keys) return attention_latent(cuda, problem, q, k, out, logsumexp, sinks);
  run_plain(cuda, problem, q, k, v, out, logsumexp, sinks);
}

template <class D>
std::int64_t attention_widest(const D& /*cuda*/) {
  return widest_latent;
}
template std::int64_t attention_widest(const Cuda&);

#define LIMBECK_INSTANTIATE(T)                                                                                     \
  template void attention_forward(const Cuda&, const AttentionProblem&, const T*, const T*, const T*, T*, Acc<T>*, \
                                  const Acc<T>*);
LIMBECK_INSTANTIATE(float)
LIMBECK_INSTANTIATE(double)
LIMBECK_INSTANTIATE(bf16)

}  // namespace limbeck::kernels
