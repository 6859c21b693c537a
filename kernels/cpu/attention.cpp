#include "kernels/attention.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <iterator>
#include <limits>
#include <numeric>
#include <vector>

#include "kernels/cpu/gemm.h"
#include "kernels/cpu/larger.h"
#include "kernels/exp.h"

namespace limbeck::kernels {
namespace {

// Products of this size run near the processor's peak, and two tiles of float32 lie in a second-level cache.
constexpr std::int64_t tile_queries = 64;
constexpr std::int64_t tile_keys = 128;

/// A range of rows, and bounds on what they hold.
struct Tile {
  std::int64_t begin = 0;
  std::int64_t count = 0;
  std::int32_t min_position = std::numeric_limits<std::int32_t>::max();
  std::int32_t max_position = std::numeric_limits<std::int32_t>::min();
  std::int32_t min_document = std::numeric_limits<std::int32_t>::max();
  std::int32_t max_document = std::numeric_limits<std::int32_t>::min();
};

Tile make_tile(std::int64_t begin, std::int64_t count, const std::int32_t* position, const std::int32_t* document) {
  Tile tile{begin, count};
  for (std::int64_t i = begin; i < begin + count; ++i) {
    tile.min_position = std::min(tile.min_position, position[i]);
    tile.max_position = std::max(tile.max_position, position[i]);
    tile.min_document = std::min(tile.min_document, document[i]);
    tile.max_document = std::max(tile.max_document, document[i]);
  }
  return tile;
}

/// f(keys, is_full) for each tile of a segment's keys of which some query may see a part: keys at the ends that no
/// query sees are cut off.
template <class F>
void for_each_key_tile(const AttentionProblem& problem, std::int64_t segment, const Tile& queries, F&& f) {
  const auto* position = problem.key_position;
  const auto* document = problem.key_document;
  const auto may_be_seen = [&](std::int64_t key) {
    return position[key] <= queries.max_position && document[key] >= queries.min_document &&
           document[key] <= queries.max_document;
  };
  const std::int64_t end = problem.key_offsets[segment + 1];
  for (std::int64_t begin = problem.key_offsets[segment]; begin < end;) {
    if (!may_be_seen(begin)) {
      ++begin;
      continue;
    }
    std::int64_t last = std::min(begin + tile_keys, end) - 1;
    const std::int64_t next = last + 1;
    while (!may_be_seen(last)) --last;
    const Tile keys = make_tile(begin, last + 1 - begin, position, document);
    const bool is_full = keys.max_position <= queries.min_position && keys.min_document == queries.min_document &&
                         keys.max_document == queries.max_document && keys.min_document == keys.max_document;
    f(keys, is_full);
    begin = next;
  }
}

struct QueryTile {
  std::int64_t segment = 0;
  std::int64_t index = 0;  // in the segment
  Tile tile;
};
std::vector<QueryTile> query_tiles(const AttentionProblem& problem) {
  std::vector<QueryTile> tiles;
  for (std::int64_t segment = 0; segment < problem.num_segments; ++segment) {
    const std::int64_t first = problem.query_offsets[segment], end = problem.query_offsets[segment + 1];
    for (std::int64_t i = 0; first + i * tile_queries < end; ++i) {
      const std::int64_t begin = first + i * tile_queries;
      tiles.push_back(
          {segment, i,
           make_tile(begin, std::min(tile_queries, end - begin), problem.query_position, problem.query_document)});
    }
  }
  return tiles;
}

/// One row of scores -> scaled, -infinity where the key is not seen; returns the maximum.
template <class T>
T scale_and_mask(T* row, std::int64_t n, T scale, bool is_full, std::int32_t position, std::int32_t document,
                 const std::int32_t* key_position, const std::int32_t* key_document) {
  constexpr T nothing = -std::numeric_limits<T>::infinity();
  T largest = nothing;
  if (is_full) {
#pragma omp simd reduction(max : largest)
    for (std::int64_t j = 0; j < n; ++j) {
      row[j] *= scale;
      largest = larger(largest, row[j]);
    }
    return largest;
  }
#pragma omp simd reduction(max : largest)
  for (std::int64_t j = 0; j < n; ++j) {
    const bool visible = (key_position[j] <= position) & (key_document[j] == document);
    row[j] = visible ? row[j] * scale : nothing;
    largest = larger(largest, row[j]);
  }
  return largest;
}

/// Rows of a matrix, `step` elements from one to the next.
template <class T>
struct Rows {
  T* at;
  std::int64_t step;
};

/// A thread's room for a tile of T as one of Acc<T>; where they are the same, the tile stays where it is.
template <class T>
class Room {
 public:
  /// These rows to read. A copy lasts until the next.
  Rows<const Acc<T>> of(const T* from, std::int64_t step, std::int64_t count, std::int64_t width) {
    if constexpr (std::is_same_v<T, Acc<T>>) {
      return {from, step};
    } else {
      const Rows<Acc<T>> to = target(nullptr, step, count, width);
      for (std::int64_t i = 0; i < count; ++i)
#pragma omp simd
        for (std::int64_t j = 0; j < width; ++j) to.at[i * width + j] = as<Acc<T>>(from[i * step + j]);
      return {to.at, to.step};
    }
  }
  /// Where to compute these rows.
  Rows<Acc<T>> target(T* to, std::int64_t step, std::int64_t count, std::int64_t width) {
    if constexpr (std::is_same_v<T, Acc<T>>) {
      return {to, step};
    } else {
      if (std::ssize(values_) < count * width) values_.resize(count * width);
      return {values_.data(), width};
    }
  }

 private:
  std::vector<Acc<T>> values_;
};

template <class T>
struct Scratch {
  Room<T> q, k, v, out;
};

template <class T>
void forward_tile(const AttentionProblem& p, const QueryTile& at, std::int64_t head, const T* q, const T* k, const T* v,
                  T* out, Acc<T>* logsumexp, Scratch<T>& scratch) {
  using A = Acc<T>;
  const Tile& queries = at.tile;
  const Cpu one{1, nullptr};
  const std::int64_t kv_head = head / (p.num_heads / p.num_kv_heads);
  const std::int64_t q_step = p.num_heads * p.width;
  const std::int64_t k_step = p.num_kv_heads * p.width;
  const std::int64_t v_step = p.num_kv_heads * p.value_width;
  const std::int64_t o_step = p.num_heads * p.value_width;
  const auto q_tile = scratch.q.of(q + queries.begin * q_step + head * p.width, q_step, queries.count, p.width);
  T* rounded = out + queries.begin * o_step + head * p.value_width;
  const auto o_tile = scratch.out.target(rounded, o_step, queries.count, p.value_width);
  alignas(64) A scores[tile_queries * tile_keys];
  A largest[tile_queries];
  A sum[tile_queries] = {};
  std::fill_n(largest, tile_queries, -std::numeric_limits<A>::infinity());
  bool is_first = true;
  for_each_key_tile(p, at.segment, queries, [&](const Tile& keys, bool is_full) {
    const auto k_tile = scratch.k.of(k + keys.begin * k_step + kv_head * p.width, k_step, keys.count, p.width);
    gemm(one, Transpose::No, Transpose::Yes, queries.count, keys.count, p.width, q_tile.at, q_tile.step, k_tile.at,
         k_tile.step, A(0), scores, tile_keys);
    for (std::int64_t i = 0; i < queries.count; ++i) {
      A* row = scores + i * tile_keys;
      const A tile_largest =
          scale_and_mask(row, keys.count, static_cast<A>(p.scale), is_full, p.query_position[queries.begin + i],
                         p.query_document[queries.begin + i], p.key_position + keys.begin, p.key_document + keys.begin);
      const A new_largest = std::max(largest[i], tile_largest);
      // Nothing seen yet: any finite reference makes every exponential 0.
      const A reference = new_largest == -std::numeric_limits<A>::infinity() ? A(0) : new_largest;
      A row_sum = 0;
#pragma omp simd reduction(+ : row_sum)
      for (std::int64_t j = 0; j < keys.count; ++j) {
        row[j] = exponential(row[j] - reference);
        row_sum += row[j];
      }
      const A correction = exponential(largest[i] - reference);
      sum[i] = sum[i] * correction + row_sum;
      largest[i] = new_largest;
      if (!is_first)
        for (std::int64_t d = 0; d < p.value_width; ++d) o_tile.at[i * o_tile.step + d] *= correction;
    }
    const auto v_tile =
        scratch.v.of(v + keys.begin * v_step + kv_head * p.value_width, v_step, keys.count, p.value_width);
    gemm(one, Transpose::No, Transpose::No, queries.count, p.value_width, keys.count, scores, tile_keys, v_tile.at,
         v_tile.step, is_first ? A(0) : A(1), o_tile.at, o_tile.step);
    is_first = false;
  });
  for (std::int64_t i = 0; i < queries.count; ++i) {
    const bool sees_none = sum[i] == 0 && largest[i] == -std::numeric_limits<A>::infinity();
    const A factor = sees_none ? A(0) : A(1) / sum[i];
#pragma omp simd
    for (std::int64_t d = 0; d < p.value_width; ++d)
      rounded[i * o_step + d] = as<T>(sees_none ? A(0) : o_tile.at[i * o_tile.step + d] * factor);
    logsumexp[(queries.begin + i) * p.num_heads + head] = sees_none ? largest[i] : largest[i] + std::log(sum[i]);
  }
}

template <class T>
struct Backward {
  const AttentionProblem& problem;
  const T *q, *k, *v, *out;
  const Acc<T>* logsumexp;
  const T* dout;
  Acc<T>*dq, *dk, *dv;

  /// delta[i]: the sum of dout * out of a query.
  void find_delta(std::int64_t head, const Tile& queries, Acc<T>* delta) const;
  /// What the scores of these queries and keys add to dq, dk and dv.
  void run_tile(std::int64_t head, const Tile& queries, const Tile& keys, bool is_full, const Acc<T>* delta,
                Scratch<T>& scratch) const;
};

template <class T>
void Backward<T>::find_delta(std::int64_t head, const Tile& queries, Acc<T>* delta) const {
  const std::int64_t step = problem.num_heads * problem.value_width;
  const std::int64_t begin = queries.begin * step + head * problem.value_width;
  for (std::int64_t i = 0; i < queries.count; ++i) {
    Acc<T> sum = 0;
    const T* o = out + begin + i * step;
    const T* d = dout + begin + i * step;
#pragma omp simd reduction(+ : sum)
    for (std::int64_t j = 0; j < problem.value_width; ++j) sum += as<Acc<T>>(o[j]) * as<Acc<T>>(d[j]);
    delta[i] = sum;
  }
}

template <class T>
void Backward<T>::run_tile(std::int64_t head, const Tile& queries, const Tile& keys, bool is_full, const Acc<T>* delta,
                           Scratch<T>& scratch) const {
  using A = Acc<T>;
  const AttentionProblem& p = problem;
  const Cpu one{1, nullptr};
  const std::int64_t kv_head = head / (p.num_heads / p.num_kv_heads);
  const std::int64_t q_step = p.num_heads * p.width;
  const std::int64_t k_step = p.num_kv_heads * p.width;
  const std::int64_t v_step = p.num_kv_heads * p.value_width;
  const std::int64_t o_step = p.num_heads * p.value_width;
  const std::int64_t q_at = queries.begin * q_step + head * p.width;
  const std::int64_t o_at = queries.begin * o_step + head * p.value_width;
  const std::int64_t k_at = keys.begin * k_step + kv_head * p.width;
  const std::int64_t v_at = keys.begin * v_step + kv_head * p.value_width;
  const auto scale = static_cast<A>(p.scale);
  const auto q_tile = scratch.q.of(q + q_at, q_step, queries.count, p.width);
  const auto k_tile = scratch.k.of(k + k_at, k_step, keys.count, p.width);
  const auto v_tile = scratch.v.of(v + v_at, v_step, keys.count, p.value_width);
  const auto do_tile = scratch.out.of(dout + o_at, o_step, queries.count, p.value_width);
  alignas(64) A probabilities[tile_queries * tile_keys];
  alignas(64) A dscores[tile_queries * tile_keys];
  gemm(one, Transpose::No, Transpose::Yes, queries.count, keys.count, p.width, q_tile.at, q_tile.step, k_tile.at,
       k_tile.step, A(0), probabilities, tile_keys);
  gemm(one, Transpose::No, Transpose::Yes, queries.count, keys.count, p.value_width, do_tile.at, do_tile.step,
       v_tile.at, v_tile.step, A(0), dscores, tile_keys);
  for (std::int64_t i = 0; i < queries.count; ++i) {
    A* row = probabilities + i * tile_keys;
    A* drow = dscores + i * tile_keys;
    scale_and_mask(row, keys.count, scale, is_full, p.query_position[queries.begin + i],
                   p.query_document[queries.begin + i], p.key_position + keys.begin, p.key_document + keys.begin);
    const A lse = logsumexp[(queries.begin + i) * p.num_heads + head];
    const A reference = lse == -std::numeric_limits<A>::infinity() ? A(0) : lse;
    const A of_query = delta[i];
#pragma omp simd
    for (std::int64_t j = 0; j < keys.count; ++j) {
      row[j] = exponential(row[j] - reference);
      drow[j] = row[j] * (drow[j] - of_query) * scale;
    }
  }
  gemm(one, Transpose::Yes, Transpose::No, keys.count, p.value_width, queries.count, probabilities, tile_keys,
       do_tile.at, do_tile.step, A(1), dv + v_at, v_step);
  gemm(one, Transpose::Yes, Transpose::No, keys.count, p.width, queries.count, dscores, tile_keys, q_tile.at,
       q_tile.step, A(1), dk + k_at, k_step);
  gemm(one, Transpose::No, Transpose::No, queries.count, p.width, keys.count, dscores, tile_keys, k_tile.at,
       k_tile.step, A(1), dq + q_at, q_step);
}

/// How far each of several tasks is: it has done all keys below a number, and so have those it follows.
class Progress {
 public:
  static constexpr int finished = std::numeric_limits<int>::max();

  explicit Progress(std::int64_t tasks) : keys_(tasks) {}
  void wait(std::int64_t task, std::int64_t keys) const {
    for (int done = keys_[task].load(); done < keys; done = keys_[task].load()) keys_[task].wait(done);
  }
  void set(std::int64_t task, std::int64_t keys) {
    keys_[task].store(static_cast<int>(keys));
    keys_[task].notify_all();
  }

 private:
  std::vector<std::atomic<int>> keys_;
};

}  // namespace

template <class T>
void attention_forward(const Cpu& cpu, const AttentionProblem& problem, const T* q, const T* k, const T* v, T* out,
                       Acc<T>* logsumexp) {
  const std::vector<QueryTile> tiles = query_tiles(problem);
  const std::int64_t num_tasks = std::ssize(tiles) * problem.num_heads;
  const auto make_scratch = [] { return Scratch<T>(); };
  for_each_task(cpu, num_tasks, make_scratch, [&](std::int64_t i, Scratch<T>& scratch) {
    const std::int64_t from_last = num_tasks - 1 - i;  // late queries see most keys: long tasks first
    forward_tile(problem, tiles[from_last / problem.num_heads], from_last % problem.num_heads, q, k, v, out, logsumexp,
                 scratch);
  });
}

// A task is a tile of queries and a key/value head, and alone adds to dq there. To dk and dv of a key the tasks of its
// segment add one after the other, in the order of the queries, so that the bits depend on no number of threads: each
// follows the task of the tile before its own from one tile of keys to the next.
template <class T>
void attention_backward(const Cpu& cpu, const AttentionProblem& problem, const T* q, const T* k, const T* v,
                        const T* out, const Acc<T>* logsumexp, const T* dout, Acc<T>* dq, Acc<T>* dk, Acc<T>* dv) {
  const std::int64_t kv_heads = problem.num_kv_heads;
  if (kv_heads == 0) return;  // a rank may hold none
  const std::int64_t group = problem.num_heads / kv_heads;
  const Backward<T> backward{problem, q, k, v, out, logsumexp, dout, dq, dk, dv};
  const std::vector<QueryTile> tiles = query_tiles(problem);
  std::vector<std::int64_t> order(tiles.size());  // the segments' first tiles, then their second ones: few wait
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](auto a, auto b) { return tiles[a].index < tiles[b].index; });
  Progress progress(std::ssize(tiles) * kv_heads);
  const auto make_scratch = [] { return Scratch<T>(); };
  for_each_task(cpu, std::ssize(tiles) * kv_heads, make_scratch, [&](std::int64_t i, Scratch<T>& scratch) {
    const std::int64_t kv_head = i % kv_heads;
    const std::int64_t task = order[i / kv_heads] * kv_heads + kv_head;
    const QueryTile& at = tiles[task / kv_heads];
    const auto follow = [&](std::int64_t keys) {
      if (at.index > 0) progress.wait(task - kv_heads, keys);
    };
    ThreadErrors errors;  // those that follow go on, whatever happens here
    errors.run([&] {
      std::vector<Acc<T>> delta(group * tile_queries);
      for (std::int64_t h = 0; h < group; ++h)
        backward.find_delta(kv_head * group + h, at.tile, delta.data() + h * tile_queries);
      for_each_key_tile(problem, at.segment, at.tile, [&](const Tile& keys, bool is_full) {
        follow(keys.begin + keys.count);
        for (std::int64_t h = 0; h < group; ++h)
          backward.run_tile(kv_head * group + h, at.tile, keys, is_full, delta.data() + h * tile_queries, scratch);
        progress.set(task, keys.begin + keys.count);
      });
      follow(Progress::finished);
    });
    progress.set(task, Progress::finished);
    errors.rethrow();
  });
}

#define LIMBECK_INSTANTIATE(T)                                                                                     \
  template void attention_forward(const Cpu&, const AttentionProblem&, const T*, const T*, const T*, T*, Acc<T>*); \
  template void attention_backward(const Cpu&, const AttentionProblem&, const T*, const T*, const T*, const T*,    \
                                   const Acc<T>*, const T*, Acc<T>*, Acc<T>*, Acc<T>*);
LIMBECK_INSTANTIATE(float)
LIMBECK_INSTANTIATE(double)
LIMBECK_INSTANTIATE(bf16)

}  // namespace limbeck::kernels
