#include <algorithm>
#include <atomic>
#include <limits>
#include <numeric>
#include <vector>

#include "kernels/cpu/attention_blocks.h"
#include "kernels/exp.h"

namespace limbeck::kernels {
namespace attention {
namespace {

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

template <class T>
struct Backward {
  const AttentionProblem& problem;
  const T *q, *out;
  const Acc<T>* logsumexp;
  const T* dout;
  Acc<T>*dq, *dk, *dv;
};

/// A tile of queries and a key/value head, on one thread.
template <class T>
class Task {
 public:
  Task(const Backward<T>& backward, const Tiles<T>& tiles, const Keys<T>& keys, const Tile& queries,
       std::int64_t kv_head, Room& room);

  /// What tile i of the keys adds to dq, here, and to dk and dv, apart. False if no query may see it.
  bool run(std::int64_t i);
  /// Adds what the last run had for dk and dv.
  void add_to_keys(std::int64_t i) const;
  void add_to_queries() const;

 private:
  using A = Acc<T>;
  static constexpr std::int64_t scores_step = tile_keys * block;  // from a block of queries to the next
  static constexpr std::int64_t panel_step = tile_queries * block;

  /// Of query head `member` of the group and a block of queries.
  struct Columns {
    T *queries, *gradients;  // right factors [D,32], [Dv,32]
    A *logsumexp, *delta;    // [32]
    A* dq;                   // [D,32]
  };
  Columns columns(std::int64_t member, std::int64_t b) const;
  std::int64_t head(std::int64_t member) const { return kv_head_ * group_ + member; }
  void read_queries(std::int64_t member, std::int64_t b);
  void make_scores(std::int64_t i, std::int64_t member, std::int64_t b);
  void multiply_into(A* factors, T* room, const T* panels, std::int64_t member, std::int64_t width, A* sums) const;
  /// The blocks of queries that some block of keys is seen by lie within.
  Range seen_by(std::int64_t key_block) const;

  const Backward<T>& b_;
  const AttentionProblem& p_;
  const Tiles<T>& tiles_;
  const Keys<T>& keys_;
  const Tile& queries_;
  std::int64_t kv_head_, group_, width_, value_width_, num_;
  std::vector<Sight> sights_;
  Range seen_[query_blocks] = {};  // of the current tile of keys
  bool has_keys_[query_blocks] = {};
  T *rows_, *query_columns_, *query_rows_, *gradient_columns_, *gradient_rows_;
  A *numbers_, *dq_, *scores_, *dscores_, *dk_, *dv_;
  T *right_, *left_, *left_gradients_;
};

template <class T>
Task<T>::Task(const Backward<T>& backward, const Tiles<T>& tiles, const Keys<T>& keys, const Tile& queries,
              std::int64_t kv_head, Room& room)
    : b_(backward),
      p_(backward.problem),
      tiles_(tiles),
      keys_(keys),
      queries_(queries),
      kv_head_(kv_head),
      group_(p_.num_heads / p_.num_kv_heads),
      width_(padded(p_.width)),
      value_width_(padded(p_.value_width)),
      num_(std::ssize(queries.blocks)),
      rows_(room.rows.get<T>(2 * block * std::max(width_, value_width_))),
      query_columns_(room.queries.get<T>(group_ * tile_queries * width_)),
      query_rows_(room.query_rows.get<T>(group_ * tile_queries * width_)),
      gradient_columns_(room.gradients.get<T>(group_ * tile_queries * value_width_)),
      gradient_rows_(room.gradient_rows.get<T>(group_ * tile_queries * value_width_)),
      numbers_(room.numbers.get<A>(group_ * query_blocks * 2 * block)),
      dq_(room.out.get<A>(group_ * tile_queries * width_)),
      scores_(room.scores.get<A>(query_blocks * scores_step)),
      dscores_(room.dscores.get<A>(query_blocks * scores_step)),
      dk_(room.dk.get<A>(tile_keys * width_)),
      dv_(room.dv.get<A>(tile_keys * value_width_)),
      right_(room.right.get<T>(tile_keys * block)),
      left_(room.left.get<T>(tile_keys * tile_queries)),
      left_gradients_(room.left_gradients.get<T>(tile_keys * tile_queries)) {
  for (std::int64_t b = 0; b < num_; ++b) {
    sights_.emplace_back(p_, queries_.blocks[b]);
    for (std::int64_t member = 0; member < group_; ++member) read_queries(member, b);
  }
}

template <class T>
typename Task<T>::Columns Task<T>::columns(std::int64_t member, std::int64_t b) const {
  const std::int64_t i = member * query_blocks + b;
  return {query_columns_ + i * block * width_, gradient_columns_ + i * block * value_width_, numbers_ + i * 2 * block,
          numbers_ + (i * 2 + 1) * block, dq_ + i * block * width_};
}

template <class T>
void Task<T>::read_queries(std::int64_t member, std::int64_t b) {
  const Block& some = queries_.blocks[b];
  const Columns to = columns(member, b);
  const std::int64_t first = some.begin * p_.num_heads + head(member);
  copy_rows(b_.q + first * p_.width, p_.num_heads * p_.width, some.count, p_.width, rows_);
  Tiles<T>::from_columns(rows_, p_.width, to.queries);
  Tiles<T>::from_rows(rows_, p_.width, query_rows_ + member * tile_queries * width_ + b * block * block, panel_step);
  const std::int64_t step = p_.num_heads * p_.value_width;
  copy_rows(b_.dout + first * p_.value_width, step, some.count, p_.value_width, rows_);
  Tiles<T>::from_columns(rows_, p_.value_width, to.gradients);
  Tiles<T>::from_rows(rows_, p_.value_width, gradient_rows_ + member * tile_queries * value_width_ + b * block * block,
                      panel_step);
  // delta: the sum of dout * out. Columns beyond the queries, and queries without keys, have probabilities of 0.
  std::fill_n(to.logsumexp, block, std::numeric_limits<A>::infinity());
  std::fill_n(to.delta, block, A(0));
  for (std::int64_t j = 0; j < some.count; ++j) {
    const T* o = b_.out + (first + j * p_.num_heads) * p_.value_width;
    const T* d = rows_ + j * value_width_;
    A sum = 0;
#pragma omp simd reduction(+ : sum)
    for (std::int64_t e = 0; e < p_.value_width; ++e) sum += as<A>(o[e]) * as<A>(d[e]);
    to.delta[j] = sum;
    const A of_query = b_.logsumexp[first + j * p_.num_heads];
    if (of_query != -std::numeric_limits<A>::infinity()) to.logsumexp[j] = of_query * log2_of_e<A>;
  }
}

/// Of 32 keys and queries: products q k and the gradients of probabilities -> probabilities, and the gradients of
/// scale q k. `scale` and logsumexp are of exponents of 2.
template <class A>
void differentiate(A scale, const A* __restrict logsumexp, const A* __restrict delta, A* __restrict scores,
                   A* __restrict dscores) {
  for (std::int64_t i = 0; i < block; ++i, scores += block, dscores += block)
#pragma omp simd
    for (std::int64_t j = 0; j < block; ++j) {
      const A p = power_of_2(scores[j] * scale - logsumexp[j]);
      scores[j] = p;
      dscores[j] = p * (dscores[j] - delta[j]);
    }
}

/// Probabilities and the gradients of scores, of the keys that the queries see, as factors; and what they add to dq.
template <class T>
void Task<T>::make_scores(std::int64_t i, std::int64_t member, std::int64_t b) {
  const Range range = seen_[b];
  const Columns of = columns(member, b);
  const Tile& tile = keys_.tile(i);
  A* scores = scores_ + (Tiles<T>::in_place ? b * scores_step : 0) + range.first * block * block;
  A* dscores = dscores_ + (Tiles<T>::in_place ? b * scores_step : 0) + range.first * block * block;
  tiles_.multiply(keys_.keys(i, kv_head_, range.first), range.rows(), of.queries, Tiles<T>::whole(p_.width), false,
                  scores);
  tiles_.multiply(keys_.values(i, kv_head_, range.first), range.rows(), of.gradients, Tiles<T>::whole(p_.value_width),
                  false, dscores);
  for (std::int64_t k = range.first; k < range.end; ++k) {
    A* at = scores + (k - range.first) * block * block;
    A* dat = dscores + (k - range.first) * block * block;
    differentiate(static_cast<A>(p_.scale) * log2_of_e<A>, of.logsumexp, of.delta, at, dat);
    const Block& rows = tile.blocks[k];
    if (sights_[b].see_all(rows)) continue;
    sights_[b].mask(rows, at, A(0));
    sights_[b].mask(rows, dat, A(0));
  }
  const std::int64_t room = range.first * block * tile_queries + b * block;
  Tiles<T>::to_left(scores, range.rows(), left_ + room, tile_queries);
  Tiles<T>::to_left(dscores, range.rows(), left_gradients_ + room, tile_queries);
  tiles_.multiply(keys_.keys_by_column(i, kv_head_, range.first), Tiles<T>::whole(p_.width),
                  Tiles<T>::as_right(dscores, range.rows(), right_), range.rows(), has_keys_[b], of.dq);
}

template <class T>
Range Task<T>::seen_by(std::int64_t key_block) const {
  Range range{0, num_};
  while (!range.empty() && !seen_[range.first].holds(key_block)) ++range.first;
  while (!range.empty() && !seen_[range.end - 1].holds(key_block)) --range.end;
  return range;
}

/// sums [keys,width] (= or +=) the transpose of factors [queries,keys] times the queries' rows in panels.
template <class T>
void Task<T>::multiply_into(A* factors, T* room, const T* panels, std::int64_t member, std::int64_t width,
                            A* sums) const {
  for (std::int64_t k = 0; k < key_blocks; ++k) {
    const Range range = seen_by(k);
    if (range.empty()) continue;
    for (std::int64_t b = range.first; b < range.end; ++b)
      if (!seen_[b].holds(k))
        Tiles<T>::clear_left(factors + b * scores_step + k * block * block, room + k * block * tile_queries + b * block,
                             tile_queries);
    const Left<T> left = Tiles<T>::left_of(factors + range.first * scores_step + k * block * block, scores_step,
                                           room + k * block * tile_queries + range.first * block, tile_queries);
    for (std::int64_t panel = 0; panel < num_blocks(width); ++panel)
      tiles_.multiply(left, block, panels + panel * panel_step + range.first * block * block, range.rows(), member > 0,
                      sums + panel * tile_keys * block + k * block * block);
  }
}

template <class T>
bool Task<T>::run(std::int64_t i) {
  bool any = false;
  for (std::int64_t b = 0; b < num_; ++b) {
    seen_[b] = sights_[b].seen_blocks(keys_.tile(i));
    any |= !seen_[b].empty();
  }
  if (!any) return false;
  tiles_.begin();
  for (std::int64_t member = 0; member < group_; ++member) {
    for (std::int64_t b = 0; b < num_; ++b)
      if (!seen_[b].empty()) make_scores(i, member, b);
    multiply_into(scores_, left_, gradient_rows_ + member * tile_queries * value_width_, member, p_.value_width, dv_);
    multiply_into(dscores_, left_gradients_, query_rows_ + member * tile_queries * width_, member, p_.width, dk_);
  }
  tiles_.end();
  for (std::int64_t b = 0; b < num_; ++b) has_keys_[b] |= !seen_[b].empty();
  return true;
}

template <class T>
void Task<T>::add_to_keys(std::int64_t i) const {
  const Tile& tile = keys_.tile(i);
  const auto add = [&](const A* sums, std::int64_t width, A factor, A* to) {
    for (std::int64_t k = 0; k < std::ssize(tile.blocks); ++k) {
      if (seen_by(k).empty()) continue;
      const Block& rows = tile.blocks[k];
      for (std::int64_t row = 0; row < rows.count; ++row) {
        A* at = to + ((rows.begin + row) * p_.num_kv_heads + kv_head_) * width;
        for (std::int64_t column = 0; column < width; column += block) {
          const A* from = sums + column / block * tile_keys * block + (k * block + row) * block;
          const std::int64_t columns = std::min(block, width - column);
#pragma omp simd
          for (std::int64_t j = 0; j < columns; ++j) at[column + j] += factor * from[j];
        }
      }
    }
  };
  add(dv_, p_.value_width, A(1), b_.dv);
  add(dk_, p_.width, static_cast<A>(p_.scale), b_.dk);
}

template <class T>
void Task<T>::add_to_queries() const {
  A* rows = scores_;
  for (std::int64_t member = 0; member < group_; ++member)
    for (std::int64_t b = 0; b < num_; ++b) {
      if (!has_keys_[b]) continue;
      const Block& some = queries_.blocks[b];
      transpose(columns(member, b).dq, block, p_.width, block, rows, width_);
      for (std::int64_t j = 0; j < some.count; ++j) {
        A* to = b_.dq + ((some.begin + j) * p_.num_heads + head(member)) * p_.width;
#pragma omp simd
        for (std::int64_t d = 0; d < p_.width; ++d) to[d] += static_cast<A>(p_.scale) * rows[j * width_ + d];
      }
    }
}

}  // namespace
}  // namespace attention

// A task is a tile of queries and a key/value head, and alone adds to dq there. To dk and dv of a key the tasks of its
// segment add one after the other, in the order of the queries, so that the bits depend on no number of threads: each
// follows the task of the tile before its own from one tile of keys to the next.
template <class D, class T>
void attention_backward(const D& cpu, const AttentionProblem& problem, const T* q, const T* k, const T* v, const T* out,
                        const Acc<T>* logsumexp, const T* dout, Acc<T>* dq, Acc<T>* dk, Acc<T>* dv) {
  using namespace attention;
  const std::int64_t kv_heads = problem.num_kv_heads;
  if (kv_heads == 0) return;  // a rank may hold none
  const Backward<T> backward{problem, q, out, logsumexp, dout, dq, dk, dv};
  Rooms& rooms = rooms_of(cpu);
  const Tiles<T> tiles(cpu);
  const Keys<T> keys(cpu, problem, key_tiles(problem), k, v, Columns::OfKeys, rooms.keys);
  const std::vector<Tile> queries = query_tiles(problem);
  std::vector<std::int64_t> order(queries.size());  // the segments' first tiles, then their second ones: few wait
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](auto a, auto b) { return queries[a].index < queries[b].index; });
  Progress progress(std::ssize(queries) * kv_heads);
  std::atomic<std::int64_t> next = 0;
  for_each_task(
      cpu, std::ssize(queries) * kv_heads, [&] { return &rooms.threads[next++]; },
      [&](std::int64_t i, Room* room) {
        const std::int64_t kv_head = i / std::ssize(queries), tile_number = order[i % std::ssize(queries)];
        const std::int64_t number = kv_head * std::ssize(queries) + tile_number;
        const Tile& at = queries[tile_number];
        const auto follow = [&](std::int64_t done) {
          if (at.index > 0) progress.wait(number - 1, done);
        };
        ThreadErrors errors;  // those that follow go on, whatever happens here
        errors.run([&] {
          Task<T> task(backward, tiles, keys, at, kv_head, *room);
          const auto [first, end] = keys.of_segment(at.segment);
          for (std::int64_t tile = first; tile < end; ++tile) {
            if (!task.run(tile)) continue;
            follow(tile + 1);
            task.add_to_keys(tile);
            progress.set(number, tile + 1);
          }
          task.add_to_queries();
          follow(Progress::finished);
        });
        progress.set(number, Progress::finished);
        errors.rethrow();
      });
}

#define LIMBECK_INSTANTIATE(T)                                                                                  \
  template void attention_backward(const Cpu&, const AttentionProblem&, const T*, const T*, const T*, const T*, \
                                   const Acc<T>*, const T*, Acc<T>*, Acc<T>*, Acc<T>*);
LIMBECK_INSTANTIATE(float)
LIMBECK_INSTANTIATE(double)
LIMBECK_INSTANTIATE(bf16)

}  // namespace limbeck::kernels
