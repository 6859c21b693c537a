#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>
#include <vector>

#include "kernels/cpu/attention_blocks.h"
#include "kernels/cpu/larger.h"
#include "kernels/exp.h"

namespace limbeck::kernels {
namespace attention {
namespace {

template <class A>
constexpr A nothing = -std::numeric_limits<A>::infinity();

template <class T>
struct Forward {
  const AttentionProblem& problem;
  const T *q, *k, *v;
  T* out;
  Acc<T>* logsumexp;
  const Acc<T>* sinks;  // or none
};

/// The softmax of 32 queries over the keys so far. Scores are taken to be exponents of 2: scale log2(e) q k.
template <class A>
struct Softmax {
  alignas(64) A largest[block];
  alignas(64) A sum[block];
  alignas(64) A correction[block];  // of what was added up before the last keys

  Softmax() {
    std::fill_n(largest, block, nothing<A>);
    std::fill_n(sum, block, A(0));
  }
  /// Products q k [rows,32] of blocks of a tile of keys -> what e^(score) is to e^largest, 0 where a key is not seen.
  void add(const AttentionProblem& p, const Sight& sight, const Tile& keys, const Range& range, A* scores);
  /// A key without a value, which all queries see.
  void add_sink(A logit);
};

template <class A>
void Softmax<A>::add(const AttentionProblem& p, const Sight& sight, const Tile& keys, const Range& range, A* scores) {
  const A scale = static_cast<A>(p.scale) * log2_of_e<A>;
  alignas(64) A reference[block], total[block];  // here, not in this: in registers
  std::copy_n(largest, block, reference);
  for (std::int64_t b = range.first; b < range.end; ++b) {
    A* at = scores + (b - range.first) * block * block;
#pragma omp simd
    for (std::int64_t i = 0; i < block * block; ++i) at[i] *= scale;
    if (!sight.see_all(keys.blocks[b])) sight.mask(keys.blocks[b], at, nothing<A>);
    for (std::int64_t i = 0; i < block; ++i)
#pragma omp simd
      for (std::int64_t j = 0; j < block; ++j) reference[j] = larger(reference[j], at[i * block + j]);
  }
  for (std::int64_t j = 0; j < block; ++j) {
    const A before = largest[j];
    largest[j] = reference[j];
    // Nothing seen yet: any finite reference makes every power 0.
    if (reference[j] == nothing<A>) reference[j] = 0;
    correction[j] = power_of_2(before - reference[j]);
    total[j] = sum[j] * correction[j];
  }
  for (std::int64_t i = 0; i < range.rows(); ++i)
#pragma omp simd
    for (std::int64_t j = 0; j < block; ++j) {
      const A power = power_of_2(scores[i * block + j] - reference[j]);
      scores[i * block + j] = power;
      total[j] += power;
    }
  std::copy_n(total, block, sum);
}

template <class A>
void Softmax<A>::add_sink(A logit) {
  const A score = logit * log2_of_e<A>;
  for (std::int64_t j = 0; j < block; ++j) {
    const A before = largest[j];
    largest[j] = larger(before, score);
    correction[j] = power_of_2(before - largest[j]);
    sum[j] = sum[j] * correction[j] + power_of_2(score - largest[j]);
  }
}

/// The output of 32 queries, [padded(Dv),32] as it was added up -> rows.
template <class T>
void store(const Forward<T>& f, Softmax<Acc<T>>& softmax, const Block& queries, std::int64_t head, bool has_keys,
           Acc<T>* sums, Room& room) {
  using A = Acc<T>;
  const std::int64_t heads = f.problem.num_heads, width = f.problem.value_width;
  bool sees_none[block];
  alignas(64) A factor[block];
  for (std::int64_t j = 0; j < block; ++j) sees_none[j] = softmax.sum[j] == 0 && softmax.largest[j] == nothing<A>;
  if (f.sinks != nullptr) softmax.add_sink(f.sinks[head]);
  for (std::int64_t j = 0; j < block; ++j)
    factor[j] = (f.sinks != nullptr ? softmax.correction[j] : A(1)) / softmax.sum[j];
  A* rows = room.numbers.get<A>(block * padded(width));
  if (has_keys) transpose(sums, block, width, block, rows, padded(width));
  for (std::int64_t j = 0; j < queries.count; ++j) {
    const std::int64_t at = (queries.begin + j) * heads + head;
    const A* from = rows + j * padded(width);
    if (sees_none[j]) {
      std::fill_n(f.out + at * width, width, as<T>(A(0)));
    } else {
#pragma omp simd
      for (std::int64_t d = 0; d < width; ++d) f.out[at * width + d] = as<T>(from[d] * factor[j]);
    }
    f.logsumexp[at] =
        sees_none[j] && f.sinks == nullptr ? nothing<A> : softmax.largest[j] / log2_of_e<A> + std::log(softmax.sum[j]);
  }
}

/// A tile of queries and a head.
template <class T>
void run_tile(const Forward<T>& f, const Tiles<T>& tiles, const Keys<T>& keys, const Tile& queries, std::int64_t head,
              Room& room) {
  using A = Acc<T>;
  const AttentionProblem& p = f.problem;
  const std::int64_t kv_head = head / (p.num_heads / p.num_kv_heads);
  const std::int64_t width = padded(p.width), value_width = padded(p.value_width);
  T* rows = room.rows.get<T>(block * width);
  T* panel = room.queries.get<T>(width * block);
  A* scores = room.scores.get<A>(tile_keys * block);
  T* right = room.right.get<T>(tile_keys * block);
  A* sums = room.out.get<A>(value_width * block);
  for (const Block& some : queries.blocks) {
    copy_rows(f.q + (some.begin * p.num_heads + head) * p.width, p.num_heads * p.width, some.count, p.width, rows);
    Tiles<T>::from_columns(rows, p.width, panel);
    const Sight sight(p, some);
    Softmax<A> softmax;
    bool has_keys = false;
    tiles.begin();
    const auto [first, end] = keys.of_segment(queries.segment);
    for (std::int64_t i = first; i < end; ++i) {
      const Range range = sight.seen_blocks(keys.tile(i));
      if (range.empty()) continue;
      tiles.multiply(keys.keys(i, kv_head, range.first), range.rows(), panel, Tiles<T>::whole(p.width), false, scores);
      softmax.add(p, sight, keys.tile(i), range, scores);
      for (std::int64_t d = 0; has_keys && d < p.value_width; ++d)
#pragma omp simd
        for (std::int64_t j = 0; j < block; ++j) sums[d * block + j] *= softmax.correction[j];
      tiles.multiply(keys.values_by_column(i, kv_head, range.first), Tiles<T>::whole(p.value_width),
                     Tiles<T>::as_right(scores, range.rows(), right), range.rows(), has_keys, sums);
      has_keys = true;
    }
    tiles.end();
    store(f, softmax, some, head, has_keys, sums, room);
  }
}

// With so few queries a segment's keys are read where they lie: products of 32 columns would be empty for the most
// part, and rearranging the keys costs more than using them.
constexpr std::int64_t few_queries = 4;

/// A query and a head.
template <class T>
void run_query(const Forward<T>& f, std::int64_t segment, std::int64_t query, std::int64_t head, Room& room) {
  using A = Acc<T>;
  const AttentionProblem& p = f.problem;
  const std::int64_t kv_head = head / (p.num_heads / p.num_kv_heads);
  const std::int64_t at = query * p.num_heads + head;
  const T* row = f.q + at * p.width;
  const auto scale = static_cast<A>(p.scale);
  const AttentionReach reach = p.reach();
  A* sums = room.out.get<A>(p.value_width);
  std::fill_n(sums, p.value_width, A(0));
  A largest = nothing<A>, sum = 0;
  for (std::int64_t first = p.key_offsets[segment]; first < p.key_offsets[segment + 1]; first += tile_keys) {
    const std::int64_t count = std::min(tile_keys, p.key_offsets[segment + 1] - first);
    bool is_seen[tile_keys];
    for (std::int64_t j = 0; j < count; ++j)
      is_seen[j] = reach.holds(p.query_position[query], p.key_position[first + j]) &&
                   p.key_document[first + j] == p.query_document[query];
    if (std::none_of(is_seen, is_seen + count, [](bool seen) { return seen; })) continue;
    const std::int64_t first_row = p.row_of_key(first);
    A scores[tile_keys];
    A reference = largest;
    for (std::int64_t j = 0; j < count; ++j) {
      const T* key = f.k + ((first_row + j) * p.num_kv_heads + kv_head) * p.width;
      A score = 0;
#pragma omp simd reduction(+ : score)
      for (std::int64_t d = 0; d < p.width; ++d) score += as<A>(row[d]) * as<A>(key[d]);
      scores[j] = is_seen[j] ? score * scale : nothing<A>;
      reference = larger(reference, scores[j]);
    }
    const A correction = exponential(largest - (reference == nothing<A> ? A(0) : reference));
    largest = reference;
    if (reference == nothing<A>) reference = 0;
    sum *= correction;
#pragma omp simd reduction(+ : sum)
    for (std::int64_t j = 0; j < count; ++j) {
      scores[j] = exponential(scores[j] - reference);
      sum += scores[j];
    }
#pragma omp simd
    for (std::int64_t d = 0; d < p.value_width; ++d) sums[d] *= correction;
    for (std::int64_t j = 0; j < count; ++j) {
      const T* value = f.v + ((first_row + j) * p.num_kv_heads + kv_head) * p.value_pitch();
#pragma omp simd
      for (std::int64_t d = 0; d < p.value_width; ++d) sums[d] += scores[j] * as<A>(value[d]);
    }
  }
  const bool sees_none = sum == 0 && largest == nothing<A>;
  A correction = 1;
  if (f.sinks != nullptr) {
    const A before = largest;
    largest = larger(before, f.sinks[head]);
    correction = exponential(before - largest);
    sum = sum * correction + exponential(f.sinks[head] - largest);
  }
  const A factor = sees_none ? A(0) : correction / sum;
#pragma omp simd
  for (std::int64_t d = 0; d < p.value_width; ++d)
    f.out[at * p.value_width + d] = as<T>(sees_none ? A(0) : sums[d] * factor);
  f.logsumexp[at] = sees_none && f.sinks == nullptr ? largest : largest + std::log(sum);
}

}  // namespace
}  // namespace attention

template <class D, class T>
void attention_forward(const D& cpu, const AttentionProblem& problem, const T* q, const T* k, const T* v, T* out,
                       Acc<T>* logsumexp, const Acc<T>* sinks) {
  using namespace attention;
  const Forward<T> forward{problem, q, k, v, out, logsumexp, sinks};
  const auto is_short = [&](const Tile& tile) {
    return problem.query_offsets[tile.segment + 1] - problem.query_offsets[tile.segment] <= few_queries;
  };
  Rooms& rooms = rooms_of(cpu);
  std::vector<Tile> long_ones = key_tiles(problem);
  std::erase_if(long_ones, is_short);
  const Tiles<T> tiles(cpu);
  const Keys<T> keys(cpu, problem, std::move(long_ones), k, v, Columns::OfValues, rooms.keys);
  const std::vector<Tile> queries = query_tiles(problem);
  const std::int64_t num_tasks = std::ssize(queries) * problem.num_heads;
  std::atomic<std::int64_t> next = 0;
  for_each_task(
      cpu, num_tasks, [&] { return &rooms.threads[next++]; },
      [&](std::int64_t task, Room* room) {
        // Late queries see most keys: long tasks first. A head's keys and values stay in a cache for all of its
        // queries.
        const std::int64_t from_last = num_tasks - 1 - task;
        const Tile& tile = queries[from_last % std::ssize(queries)];
        const std::int64_t head = from_last / std::ssize(queries);
        if (!is_short(tile)) return run_tile(forward, tiles, keys, tile, head, *room);
        for (std::int64_t i = 0; i < tile.count; ++i) run_query(forward, tile.segment, tile.begin + i, head, *room);
      });
}

template <class D>
std::int64_t attention_widest(const D& /*cpu*/) {
  return INT64_MAX;
}
template std::int64_t attention_widest(const Cpu&);

#define LIMBECK_INSTANTIATE(T)                                                                                    \
  template void attention_forward(const Cpu&, const AttentionProblem&, const T*, const T*, const T*, T*, Acc<T>*, \
                                  const Acc<T>*);
LIMBECK_INSTANTIATE(float)
LIMBECK_INSTANTIATE(double)
LIMBECK_INSTANTIATE(bf16)

}  // namespace limbeck::kernels
