// Two kernels, so that every sum is one block's: dq by tiles of queries, dk and dv by tiles of keys, which both form
// the probabilities and the gradients of the scores again. Dao, "FlashAttention-2" (2023), algorithm 2.
#include <algorithm>
#include <cmath>

#include "kernels/attention.h"
#include "kernels/cuda/attention_mma.h"
#include "kernels/cuda/attention_rows.cuh"
#include "kernels/cuda/packed_attention.h"

namespace limbeck::kernels {
namespace {

template <class T>
struct Tensors {
  const T *q, *k, *v, *out;
  const Acc<T>* logsumexp;
  const T* dout;
  Acc<T>*dq, *dk, *dv;
};

/// sum over the columns of dout * out of a query and head, by the warp: what the softmax's gradient takes off.
template <class T>
__device__ Acc<T> mean_gradient(const Tensors<T>& t, std::int64_t row, int value_width) {
  Acc<T> sum = 0;
  for (int c = lane_index(); c < value_width; c += 32)
    sum += as<Acc<T>>(t.dout[row * value_width + c]) * as<Acc<T>>(t.out[row * value_width + c]);
  return warp_sum(sum);
}

template <class A>
struct ScoreGradient {
  A probability = 0, score = 0;  // the gradient of the unscaled score is scale * `score`
};

/// Of a query and a key that it sees.
template <class A>
__device__ ScoreGradient<A> score_gradient(const A* query, const A* key, int width, A scale, A logsumexp, const A* dout,
                                           const A* value, int value_width, A mean) {
  const A probability = std::exp(dot(query, key, width) * scale - logsumexp);
  return {probability, probability * (dot(dout, value, value_width) - mean)};
}

template <class T, int Chunks>
__global__ void __launch_bounds__(attention_threads, 1) query_kernel(const AttentionProblem p, const Tensors<T> t) {
  using A = Acc<T>;
  __shared__ int flag;
  const int width = static_cast<int>(p.width), value_width = static_cast<int>(p.value_width);
  TileMemory<A> memory{gpu::dynamic_shared<A>()};
  const RowsTile<A> queries = memory.take(width), keys = memory.take(width), values = memory.take(value_width),
                    douts = memory.take(value_width);
  const GroupedProblem tiles{.groups = p.num_segments, .n = p.num_heads, .offsets = p.query_offsets};
  TileTurns turns(tiles, reinterpret_cast<std::int64_t*>(memory.next), attention_tile, 1);
  const A scale = static_cast<A>(p.scale);

  for (Tile tile; turns.next(tile);) {
    const std::int64_t head = tile.column, kv_head = head / (p.num_heads / p.num_kv_heads);
    const std::int64_t first_query = tile.first + tile.row;
    const int num_queries = rows_left(tile.count, tile.row);
    const auto query_of = [&](int r) { return first_query + r; };
    __syncthreads();
    queries.read(t.q, p.num_heads * width, head * width, num_queries, query_of);
    douts.read(t.dout, p.num_heads * value_width, head * value_width, num_queries, query_of);
    A mean[rows_of_warp], logsumexp[rows_of_warp];
    RowSums<A, Chunks> dq[rows_of_warp];
#pragma unroll
    for (int i = 0; i < rows_of_warp; ++i) {
      const int r = warp_index() * rows_of_warp + i;
      const std::int64_t row = (first_query + (r < num_queries ? r : 0)) * p.num_heads + head;
      mean[i] = mean_gradient(t, row, value_width);
      logsumexp[i] = t.logsumexp[row];
    }
    const std::int64_t end_of_keys = p.key_offsets[tile.group + 1];
    for (std::int64_t first_key = p.key_offsets[tile.group]; first_key < end_of_keys; first_key += attention_tile) {
      const int num_keys = rows_left(end_of_keys, first_key);
      if (!any_sees(p, first_query, num_queries, first_key, num_keys, &flag)) continue;
      const auto key_of = [&](int r) { return first_key + r; };
      keys.read(t.k, p.num_kv_heads * width, kv_head * width, num_keys, key_of);
      values.read(t.v, p.num_kv_heads * value_width, kv_head * value_width, num_keys, key_of);
      __syncthreads();
#pragma unroll
      for (int i = 0; i < rows_of_warp; ++i) {
        const int r = warp_index() * rows_of_warp + i, lane = lane_index();
        ScoreGradient<A> g;
        if (r < num_queries && lane < num_keys && sees(p, first_query + r, first_key + lane))
          g = score_gradient(queries.row(r), keys.row(lane), width, scale, logsumexp[i], douts.row(r), values.row(lane),
                             value_width, mean[i]);
        dq[i].add_weighted(as_factor<T>(g.score), keys);
      }
    }
#pragma unroll
    for (int i = 0; i < rows_of_warp; ++i) {
      const int r = warp_index() * rows_of_warp + i;
      if (r >= num_queries) continue;
      A* const to = t.dq + ((first_query + r) * p.num_heads + head) * width;
      dq[i].for_each(width, [&](int column, A x) { to[column] += x * scale; });
    }
  }
}

template <class T, int Chunks>
__global__ void __launch_bounds__(attention_threads, 1) key_kernel(const AttentionProblem p, const Tensors<T> t) {
  using A = Acc<T>;
  __shared__ int flag;
  __shared__ A means[attention_tile], logsumexps[attention_tile];
  const int width = static_cast<int>(p.width), value_width = static_cast<int>(p.value_width);
  TileMemory<A> memory{gpu::dynamic_shared<A>()};
  const RowsTile<A> queries = memory.take(width), keys = memory.take(width), values = memory.take(value_width),
                    douts = memory.take(value_width);
  const GroupedProblem tiles{.groups = p.num_segments, .n = p.num_kv_heads, .offsets = p.key_offsets};
  TileTurns turns(tiles, reinterpret_cast<std::int64_t*>(memory.next), attention_tile, 1);
  const A scale = static_cast<A>(p.scale);
  const std::int64_t heads_of_key = p.num_heads / p.num_kv_heads;

  for (Tile tile; turns.next(tile);) {
    const std::int64_t kv_head = tile.column, first_key = tile.first + tile.row;
    const int num_keys = rows_left(tile.count, tile.row);
    const auto key_of = [&](int r) { return first_key + r; };
    __syncthreads();
    keys.read(t.k, p.num_kv_heads * width, kv_head * width, num_keys, key_of);
    values.read(t.v, p.num_kv_heads * value_width, kv_head * value_width, num_keys, key_of);
    RowSums<A, Chunks> dk[rows_of_warp], dv[rows_of_warp];
    const std::int64_t end_of_queries = p.query_offsets[tile.group + 1];
    for (std::int64_t first_query = p.query_offsets[tile.group]; first_query < end_of_queries;
         first_query += attention_tile) {
      const int num_queries = rows_left(end_of_queries, first_query);
      if (!any_sees(p, first_query, num_queries, first_key, num_keys, &flag)) continue;
      for (std::int64_t head = kv_head * heads_of_key; head < (kv_head + 1) * heads_of_key; ++head) {
        const auto query_of = [&](int r) { return first_query + r; };
        __syncthreads();  // the last head's rows were read
        queries.read(t.q, p.num_heads * width, head * width, num_queries, query_of);
        douts.read(t.dout, p.num_heads * value_width, head * value_width, num_queries, query_of);
#pragma unroll
        for (int i = 0; i < rows_of_warp; ++i) {
          const int r = warp_index() * rows_of_warp + i;
          const std::int64_t row = (first_query + (r < num_queries ? r : 0)) * p.num_heads + head;
          const A mean = mean_gradient(t, row, value_width);
          if (lane_index() == 0) {
            means[r] = mean;
            logsumexps[r] = t.logsumexp[row];
          }
        }
        __syncthreads();
#pragma unroll
        for (int i = 0; i < rows_of_warp; ++i) {
          const int r = warp_index() * rows_of_warp + i, lane = lane_index();
          ScoreGradient<A> g;
          if (r < num_keys && lane < num_queries && sees(p, first_query + lane, first_key + r))
            g = score_gradient(queries.row(lane), keys.row(r), width, scale, logsumexps[lane], douts.row(lane),
                               values.row(r), value_width, means[lane]);
          dk[i].add_weighted(as_factor<T>(g.score), queries);
          dv[i].add_weighted(as_factor<T>(g.probability), douts);
        }
      }
    }
#pragma unroll
    for (int i = 0; i < rows_of_warp; ++i) {
      const int r = warp_index() * rows_of_warp + i;
      if (r >= num_keys) continue;
      const std::int64_t row = (first_key + r) * p.num_kv_heads + kv_head;
      dk[i].for_each(width, [&](int column, A x) { t.dk[row * width + column] += x * scale; });
      dv[i].for_each(value_width, [&](int column, A x) { t.dv[row * value_width + column] += x; });
    }
  }
}

template <class T>
void run_plain(const Cuda& cuda, const AttentionProblem& problem, const Tensors<T>& tensors) {
  using A = Acc<T>;
  check_segments(problem);
  const std::size_t shared = static_cast<std::size_t>(2 * RowsTile<A>::elements(problem.width) +
                                                      2 * RowsTile<A>::elements(problem.value_width)) *
                                 sizeof(A) +
                             static_cast<std::size_t>(problem.num_segments) * sizeof(std::int64_t);
  const dim3 blocks(static_cast<unsigned>(4 * cuda.state->num_multiprocessors)), threads(attention_threads);
  with_chunks(std::max(problem.width, problem.value_width), [&](auto chunks) {
    gpu::launch(cuda, query_kernel<T, decltype(chunks)::value>, blocks, threads, shared, problem, tensors);
    gpu::launch(cuda, key_kernel<T, decltype(chunks)::value>, blocks, threads, shared, problem, tensors);
  });
}

}  // namespace

template <class D, class T>
void attention_backward(const D& cuda, const AttentionProblem& problem, const T* q, const T* k, const T* v,
                        const T* out, const Acc<T>* logsumexp, const T* dout, Acc<T>* dq, Acc<T>* dk, Acc<T>* dv) {
  check_extents(problem);
  if (problem.num_segments == 0 || problem.num_heads == 0) return;
  if constexpr (std::is_same_v<T, bf16>) {
    if (packed_attention_backward(cuda, problem, q, k, v, out, logsumexp, dout, dq, dk, dv)) return;
    if (tensor_cores_take(problem, {q, k, v, out, dout, dq, dk, dv}))
      return attention_backward_mma(cuda, problem, q, k, v, out, logsumexp, dout, dq, dk, dv);
  }
  run_plain(cuda, problem, Tensors<T>{q, k, v, out, logsumexp, dout, dq, dk, dv});
}

#define LIMBECK_INSTANTIATE(T)                                                                                   \
  template void attention_backward(const Cuda&, const AttentionProblem&, const T*, const T*, const T*, const T*, \
                                   const Acc<T>*, const T*, Acc<T>*, Acc<T>*, Acc<T>*);
LIMBECK_INSTANTIATE(float)
LIMBECK_INSTANTIATE(double)
LIMBECK_INSTANTIATE(bf16)

}  // namespace limbeck::kernels
