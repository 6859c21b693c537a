// A matrix of any type, stored straight or transposed, into the panels that products of bfloat16 read
// (kernels/packed.h).
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "kernels/cpu/pack.h"
#include "kernels/cpu/tile_products.h"
#include "kernels/matmul.h"

namespace limbeck::kernels {

inline constexpr std::int64_t half = tile_columns / 2;                   // columns that a block of a panel has together
inline constexpr std::int64_t panel_block = tile_columns * block_depth;  // values of a panel's block
inline constexpr std::int64_t blocks_ahead = 4;  // of what is packed, that are on their way from memory

/// `to` [rows,32]: what exists, `rows` rows of `columns` values `step` apart, and 0 to the end.
template <int rows_of_block>
void read_block(const TileProduct&, const bf16* from, std::int64_t step, std::int64_t rows, std::int64_t columns,
                bf16 (&to)[rows_of_block][32]) {
  const auto count = static_cast<std::size_t>(std::clamp<std::int64_t>(columns, 0, 32)) * sizeof(bf16);
  if (rows < rows_of_block || columns < 32) std::memset(static_cast<void*>(to), 0, sizeof to);
  for (std::int64_t i = 0; i < std::min<std::int64_t>(rows, rows_of_block); ++i)
    std::memcpy(static_cast<void*>(to[i]), from + i * step, columns >= 32 ? 32 * sizeof(bf16) : count);
}
template <int rows_of_block>
void read_block(const TileProduct& tiles, const float* from, std::int64_t step, std::int64_t rows, std::int64_t columns,
                bf16 (&to)[rows_of_block][32]) {
  if (rows >= rows_of_block && columns >= 32) return tiles.round(from, step, rows_of_block, to[0], 32);
  float values[rows_of_block][32] = {};
  for (std::int64_t i = 0; columns > 0 && i < std::min<std::int64_t>(rows, rows_of_block); ++i)
    std::copy_n(from + i * step, std::min<std::int64_t>(columns, 32), values[i]);
  tiles.round(values[0], 32, rows_of_block, to[0], 32);
}

/// 16 rows of a block, as pairs.
inline void pairs_of_block(const bf16 (*rows)[32], Pairs (&pairs)[half]) { std::memcpy(&pairs, rows, sizeof pairs); }

/// Has a block of [rows,32] on its way to the first cache: the processor foresees no so many short rows.
template <class W>
void fetch_block(const W* from, std::int64_t step, std::int64_t rows) {
  constexpr std::int64_t line = 64 / sizeof(W);
  for (std::int64_t i = 0; i < std::min<std::int64_t>(rows, 32); ++i)
    for (std::int64_t j = 0; j < 32; j += line) __builtin_prefetch(from + i * step + j);
}

/// A block of a panel of B^T, given rows of B.
inline void pack_turned(const bf16 (&values)[tile_columns][block_depth], bf16* to) {
  for (std::int64_t part = 0; part < tile_columns; part += half, to += half * block_depth) {
    Pairs pairs[half];
    pairs_of_block(values + part, pairs);
    transpose(pairs);
    std::memcpy(static_cast<void*>(to), pairs, sizeof pairs);
  }
}

/// A block of a panel of B, given its rows.
inline void pack_straight(const bf16 (&values)[block_depth][tile_columns], bf16* to) {
  for (std::int64_t i = 0; i < half; ++i, to += 2 * half) {
    Pairs left, right;
    pairs_of_rows(values[2 * i], values[2 * i + 1], left, right);
    std::memcpy(static_cast<void*>(to), &left, sizeof left);
    std::memcpy(static_cast<void*>(to + half * block_depth), &right, sizeof right);
  }
}

/// Blocks [first, first + count) of panels [panel, panel + panels) of op(B) [k,n], panel by panel.
template <class W>
void pack_panels(const TileProduct& tiles, Transpose transpose_b, std::int64_t k, std::int64_t n, const W* b,
                 std::int64_t panel, std::int64_t panels, std::int64_t first, std::int64_t count, bf16* to) {
  const bool turned = transpose_b == Transpose::Yes;
  const std::int64_t step = turned ? k : n, total = panels * count;
  struct Place {
    std::int64_t panel, block, row, column;  // the latter of B as it is stored
  };
  // In the order of B's memory.
  const auto place = [&](std::int64_t i) -> Place {
    const std::int64_t p = turned ? i / count : i % panels, block = turned ? i % count : i / panels;
    const std::int64_t across = (panel + p) * tile_columns, down = (first + block) * block_depth;
    return {p, block, turned ? across : down, turned ? down : across};
  };
  alignas(64) bf16 values[tile_columns][block_depth];
  for (std::int64_t i = 0; i < total; ++i) {
    if (i + blocks_ahead < total) {
      const Place ahead = place(i + blocks_ahead);
      fetch_block(b + ahead.row * step + ahead.column, step, (turned ? n : k) - ahead.row);
    }
    const Place here = place(i);
    read_block(tiles, b + here.row * step + here.column, step, (turned ? n : k) - here.row, step - here.column, values);
    bf16* at = to + (here.panel * count + here.block) * panel_block;
    turned ? pack_turned(values, at) : pack_straight(values, at);
  }
}

}  // namespace limbeck::kernels
