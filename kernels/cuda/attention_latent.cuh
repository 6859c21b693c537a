// What both kernels of attention whose values lie in the keys (attention_latent.h) have in common. A block has rows
// that are a query's heads, or those of a few queries, and a part of the keys, which are read once into shared memory,
// as keys and as values, for all rows.
#pragma once

#include <algorithm>

#include "kernels/cuda/attention_latent.h"
#include "kernels/cuda/attention_parts.cuh"

namespace limbeck::kernels {

template <class T>
struct LatentTensors {
  const T *q, *k;
  T* out;
  Acc<T>* logsumexp;
  const Acc<T>* sinks;  // or none
  const Bounds* bounds = nullptr;
  AttentionReach reach = {};
  Parts<Acc<T>> parts = {};

  __device__ const Acc<T>* sink(std::int64_t number, std::int64_t heads) const {
    return sinks == nullptr ? nullptr : sinks + number % heads;
  }
};

/// The block's tile of rows, which begin with the last, for late queries see most keys; false where it has none. Block
/// (x, y) has the x-th of the tiles, of each for all key/value heads, and the y-th part of the keys.
template <int Rows, int Keys, class T>
__device__ bool find_rows(const AttentionProblem& p, const LatentTensors<T>& t, SegmentTile& tile,
                          BlockRows<Rows, Keys>& rows) {
  const int members = static_cast<int>(p.num_heads / p.num_kv_heads);
  const auto kv_heads = static_cast<unsigned>(p.num_kv_heads);
  const SegmentTiles<Rows> tiles{p.query_offsets, p.num_segments, members};
  if (!tiles.find((gridDim.x - 1 - blockIdx.x) / kv_heads, tile)) return false;
  rows.fill(p, t.reach, t.bounds, tile, blockIdx.x % kv_heads, members);
  return true;
}

/// In how many parts the keys are summed: as many as fill the multiprocessors with blocks that have rows, where
/// segments with queries are as many as there may be and alike, but of 256 keys in the mean, or a window's, and no more
/// than there is scratch memory for.
template <class A>
std::int64_t parts_of_keys(const Cuda& cuda, const AttentionProblem& p, std::int64_t rows_of_block,
                           std::int64_t blocks_of_multiprocessor, std::size_t room) {
  const std::int64_t segments = std::min(p.num_segments, p.num_queries);
  const std::int64_t rows = ceil_div(p.num_queries, segments) * (p.num_heads / p.num_kv_heads);
  const std::int64_t blocks = segments * ceil_div(rows, rows_of_block) * p.num_kv_heads;
  const std::int64_t in_mean = p.num_keys / segments, seen = p.window > 0 ? std::min(p.window, in_mean) : in_mean;
  return std::max<std::int64_t>(
      1, std::min({blocks_of_multiprocessor * cuda.state->num_multiprocessors / blocks, seen / 256,
                   static_cast<std::int64_t>(room) / (Parts<A>::bytes(p) + 512)}));
}

/// Queues all that it takes; launch(blocks, tensors) the kernel, of blocks of so many rows and tiles of so many keys.
template <int Rows, int Keys, class T, class F>
void run_latent(const Cuda& cuda, const AttentionProblem& p, LatentTensors<T> t, std::int64_t blocks_of_multiprocessor,
                F&& launch) {
  const std::int64_t rows = p.num_queries * p.num_heads;
  if (rows == 0) return;
  Scratch scratch(cuda);
  t.bounds = bounds_of_keys<Keys>(cuda, scratch, p);
  t.reach = p.reach();
  const std::int64_t parts = parts_of_keys<Acc<T>>(cuda, p, Rows, blocks_of_multiprocessor, scratch.left());
  if (parts > 1) t.parts = Parts<Acc<T>>::take(scratch, p, parts);
  const std::int64_t tiles = SegmentTiles<Rows>::numbers(rows / p.num_kv_heads, p.num_segments);
  launch(dim3(static_cast<unsigned>(tiles * p.num_kv_heads), static_cast<unsigned>(parts)), t);
  if (parts > 1) add_parts(cuda, p, t.parts, parts, t.out, t.logsumexp, t.sinks);
}

}  // namespace limbeck::kernels
