// Attention's queries and keys by blocks of 32: which see each other, and the keys and values of a head as factors.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <utility>
#include <vector>

#include "kernels/attention.h"
#include "kernels/cpu/attention_tiles.h"
#include "kernels/cpu/parallel_for.h"

namespace limbeck::kernels::attention {

// Keys, values and scores of 32 queries lie in a first-level cache.
inline constexpr std::int64_t query_blocks = 4, key_blocks = 2;  // of a tile
inline constexpr std::int64_t tile_queries = query_blocks * block, tile_keys = key_blocks * block;
static_assert(attention_page % tile_keys == 0, "a tile of keys lies in one page");

/// Scores are exponents of 2: scale log2(e) q k.
template <class A>
constexpr A log2_of_e = static_cast<A>(1.4426950408889634074);

/// A range of at most 32 rows, and bounds on what they hold.
struct Block {
  std::int64_t begin = 0;
  std::int64_t count = 0;
  std::int32_t min_position = std::numeric_limits<std::int32_t>::max();
  std::int32_t max_position = std::numeric_limits<std::int32_t>::min();
  std::int32_t min_document = std::numeric_limits<std::int32_t>::max();
  std::int32_t max_document = std::numeric_limits<std::int32_t>::min();
};

/// Some query may see some key.
inline bool may_see(const AttentionReach& reach, const Block& queries, const Block& keys) {
  return reach.may_hold(queries, keys) && keys.max_document >= queries.min_document &&
         keys.min_document <= queries.max_document;
}
/// Every query sees all 32 keys.
inline bool see_all(const AttentionReach& reach, const Block& queries, const Block& keys) {
  return keys.count == block && reach.holds_all(queries, keys) && keys.min_document == queries.min_document &&
         keys.max_document == queries.max_document && keys.min_document == keys.max_document;
}

/// Consecutive blocks of a segment.
struct Tile {
  std::int64_t segment = 0;
  std::int64_t index = 0;  // in the segment
  std::int64_t begin = 0;
  std::int64_t count = 0;  // of rows
  std::vector<Block> blocks = {};
};

/// Rows [offsets[n], offsets[n+1]) in tiles.
inline std::vector<Tile> make_tiles(std::int64_t segments, const std::int64_t* offsets, std::int64_t tile_rows,
                                    const std::int32_t* position, const std::int32_t* document) {
  std::vector<Tile> tiles;
  for (std::int64_t n = 0; n < segments; ++n)
    for (std::int64_t begin = offsets[n]; begin < offsets[n + 1]; begin += tile_rows) {
      Tile tile{n, (begin - offsets[n]) / tile_rows, begin, std::min(tile_rows, offsets[n + 1] - begin)};
      for (std::int64_t first = begin; first < begin + tile.count; first += block) {
        Block rows{first, std::min(block, begin + tile.count - first)};
        for (std::int64_t i = first; i < first + rows.count; ++i) {
          rows.min_position = std::min(rows.min_position, position[i]);
          rows.max_position = std::max(rows.max_position, position[i]);
          rows.min_document = std::min(rows.min_document, document[i]);
          rows.max_document = std::max(rows.max_document, document[i]);
        }
        tile.blocks.push_back(rows);
      }
      tiles.push_back(std::move(tile));
    }
  return tiles;
}
inline std::vector<Tile> query_tiles(const AttentionProblem& p) {
  return make_tiles(p.num_segments, p.query_offsets, tile_queries, p.query_position, p.query_document);
}
inline std::vector<Tile> key_tiles(const AttentionProblem& p) {
  return make_tiles(p.num_segments, p.key_offsets, tile_keys, p.key_position, p.key_document);
}

/// Blocks [first,end) of a tile.
struct Range {
  std::int64_t first = 0, end = 0;
  bool empty() const { return first >= end; }
  bool holds(std::int64_t i) const { return first <= i && i < end; }
  std::int64_t rows() const { return (end - first) * block; }
};

/// For each column of a block of queries whether it sees a key. Columns beyond the queries see none.
class Sight {
 public:
  Sight(const AttentionProblem& p, const Block& queries) : problem_(p), reach_(p.reach()), queries_(queries) {
    std::fill_n(position_, block, std::numeric_limits<std::int32_t>::min());
    std::fill_n(document_, block, 0);
    std::copy_n(p.query_position + queries.begin, queries.count, position_);
    std::copy_n(p.query_document + queries.begin, queries.count, document_);
  }
  /// Those that some of the queries may see lie within.
  Range seen_blocks(const Tile& keys) const {
    Range range{0, static_cast<std::int64_t>(keys.blocks.size())};
    while (!range.empty() && !may_see(reach_, queries_, keys.blocks[range.first])) ++range.first;
    while (!range.empty() && !may_see(reach_, queries_, keys.blocks[range.end - 1])) --range.end;
    return range;
  }
  bool see_all(const Block& keys) const { return attention::see_all(reach_, queries_, keys); }

  /// Rows [32,32] of a block of keys, those beyond them included: where a key is not seen, the value becomes
  /// `otherwise`.
  template <class A>
  void mask(const Block& keys, A* rows, A otherwise) const {
    const AttentionReach reach = reach_;
    for (std::int64_t i = 0; i < keys.count; ++i) {
      const std::int32_t at = problem_.key_position[keys.begin + i], in = problem_.key_document[keys.begin + i];
      A* row = rows + i * block;
#pragma omp simd
      for (std::int64_t j = 0; j < block; ++j)
        row[j] =
            ((at <= position_[j]) & (AttentionReach::distance(position_[j], at) <= reach.before) & (in == document_[j]))
                ? row[j]
                : otherwise;
    }
    std::fill_n(rows + keys.count * block, (block - keys.count) * block, otherwise);
  }

 private:
  const AttentionProblem& problem_;
  AttentionReach reach_;
  const Block& queries_;
  std::int32_t position_[block];
  std::int32_t document_[block];
};

/// Rows [count,width], `step` apart, to 32 rows [32,padded(width)] with zeros behind them.
template <class T>
void copy_rows(const T* from, std::int64_t step, std::int64_t count, std::int64_t width, T* to) {
  for (std::int64_t i = 0; i < block; ++i, to += padded(width)) {
    const std::int64_t n = i < count ? width : 0;
    std::copy_n(from + i * step, n, to);
    std::fill(to + n, to + padded(width), as<T>(0.F));
  }
}

/// What is rearranged of them for sums over keys.
enum class Columns : std::uint8_t { OfKeys, OfValues };

/// Keys and values of tiles and heads as left factors: copies of their rows, and columns of the keys or of the values.
template <class T>
class Keys {
 public:
  Keys(const Cpu& cpu, const AttentionProblem& p, std::vector<Tile> tiles, const T* k, const T* v, Columns columns,
       Scratch& room)
      : tiles_(std::move(tiles)), heads_(p.num_kv_heads), width_(padded(p.width)), value_width_(padded(p.value_width)) {
    const bool of_keys = columns == Columns::OfKeys;
    const std::int64_t columns_width = Tiles<T>::in_place ? 0 : of_keys ? width_ : value_width_;
    row_elements_ = width_ + value_width_ + columns_width;
    first_of_.assign(p.num_segments + 1, 0);
    std::int64_t rows = 0;
    for (const Tile& tile : tiles_) {
      ++first_of_[tile.segment + 1];
      first_row_.push_back(rows);
      rows += padded(tile.count);
    }
    for (std::int64_t n = 0; n < p.num_segments; ++n) first_of_[n + 1] += first_of_[n];
    values_ = room.get<T>(rows * heads_ * row_elements_);
    for_each_task(cpu, std::ssize(tiles_) * heads_, [&](std::int64_t task) {
      const std::int64_t i = task / heads_, head = task % heads_;
      for (std::int64_t b = 0; b < std::ssize(tiles_[i].blocks); ++b) {
        const Block& from = tiles_[i].blocks[b];
        T* to = rows_at(i, head, b);
        T* values_to = value_rows_at(i, head, b);
        const std::int64_t row = p.row_of_key(from.begin) * heads_ + head;
        copy_rows(k + row * p.width, heads_ * p.width, from.count, p.width, to);
        copy_rows(v + row * p.value_pitch(), heads_ * p.value_pitch(), from.count, p.value_width, values_to);
        Tiles<T>::to_columns(of_keys ? to : values_to, of_keys ? p.width : p.value_width, columns_at(i, head, b),
                             padded(tiles_[i].count));
      }
    });
  }

  /// The tiles of a segment: [first,end) of tile().
  std::pair<std::int64_t, std::int64_t> of_segment(std::int64_t n) const { return {first_of_[n], first_of_[n + 1]}; }
  const Tile& tile(std::int64_t i) const { return tiles_[i]; }

  /// Rows of a tile's keys (values) from block b on.
  Left<T> keys(std::int64_t i, std::int64_t head, std::int64_t b) const { return {rows_at(i, head, b), width_}; }
  Left<T> values(std::int64_t i, std::int64_t head, std::int64_t b) const {
    return {value_rows_at(i, head, b), value_width_};
  }
  /// The same with a row for each element of a key (value), whose terms are the keys.
  Left<T> keys_by_column(std::int64_t i, std::int64_t head, std::int64_t b) const {
    return Tiles<T>::transposed(rows_at(i, head, b), width_, columns_at(i, head, b), padded(tiles_[i].count));
  }
  Left<T> values_by_column(std::int64_t i, std::int64_t head, std::int64_t b) const {
    return Tiles<T>::transposed(value_rows_at(i, head, b), value_width_, columns_at(i, head, b),
                                padded(tiles_[i].count));
  }

 private:
  /// Of a tile and head: the rows of keys, those of values, and columns.
  T* at(std::int64_t i, std::int64_t head) const {
    return values_ + (first_row_[i] * heads_ + head * padded(tiles_[i].count)) * row_elements_;
  }
  T* rows_at(std::int64_t i, std::int64_t head, std::int64_t b) const { return at(i, head) + b * block * width_; }
  T* value_rows_at(std::int64_t i, std::int64_t head, std::int64_t b) const {
    return at(i, head) + padded(tiles_[i].count) * width_ + b * block * value_width_;
  }
  T* columns_at(std::int64_t i, std::int64_t head, std::int64_t b) const {
    return at(i, head) + padded(tiles_[i].count) * (width_ + value_width_) + b * block;
  }

  std::vector<Tile> tiles_;
  std::vector<std::int64_t> first_of_;   // segment
  std::vector<std::int64_t> first_row_;  // of a tile, for each head
  std::int64_t heads_, width_, value_width_;
  std::int64_t row_elements_ = 0;  // of a key and head
  T* values_ = nullptr;
};

/// Of one thread: grows, and is kept between calls.
struct Room {
  Scratch rows, queries, query_rows, gradients, gradient_rows, numbers, out, scores, dscores, right, left,
      left_gradients, dk, dv;
};
struct Rooms {
  Scratch keys;
  std::vector<Room> threads;
};

/// The rank's, for at least as many threads as the device has.
inline Rooms& rooms_of(const Cpu& cpu) {
  if (!cpu.cache->attention) cpu.cache->attention = std::make_shared<Rooms>();
  Rooms& rooms = *static_cast<Rooms*>(cpu.cache->attention.get());
  if (std::ssize(rooms.threads) < cpu.threads) rooms.threads.resize(cpu.threads);
  return rooms;
}

}  // namespace limbeck::kernels::attention
