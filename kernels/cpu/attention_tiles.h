// Products of small matrices inside attention, in tiles of 32 columns: of float32, of float64, and of bfloat16 with
// float32 sums (kernels/cpu/tile_products.h). A left factor is read by rows. A right factor lies in panels of 32
// columns, and so does a result: [rows,32] each. As a factor of the next product a result stays where it is, or is
// rounded to bfloat16 into the room that is given.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <experimental/simd>

#include "kernels/cpu.h"
#include "kernels/cpu/cpu_cache.h"
#include "kernels/cpu/pack.h"
#include "kernels/cpu/tile_products.h"

namespace limbeck::kernels::attention {

inline constexpr std::int64_t block = 32;  // rows of keys or queries, columns of a panel, terms of a sum

constexpr std::int64_t num_blocks(std::int64_t n) { return (n + block - 1) / block; }
constexpr std::int64_t padded(std::int64_t n) { return num_blocks(n) * block; }

/// The element of row i and term 32 b + d lies at `at` + i row_step + b block_step + d depth_step.
template <class T>
struct Left {
  const T* at = nullptr;
  std::int64_t row_step = 0;
  std::int64_t depth_step = 1;
  std::int64_t block_step = block;
};

/// Numbers of 32 bits, rows and columns rounded up to 16: to[c,r] = from[r,c].
inline void transpose(const float* from, std::int64_t from_step, std::int64_t rows, std::int64_t columns, float* to,
                      std::int64_t to_step) {
  for (std::int64_t r = 0; r < rows; r += 16)
    for (std::int64_t c = 0; c < columns; c += 16) {
      Pairs lines[16];
      for (std::int64_t i = 0; i < 16; ++i) std::memcpy(&lines[i], from + (r + i) * from_step + c, sizeof(Pairs));
      kernels::transpose(lines);
      for (std::int64_t i = 0; i < 16; ++i) std::memcpy(to + (c + i) * to_step + r, &lines[i], sizeof(Pairs));
    }
}
inline void transpose(const double* from, std::int64_t from_step, std::int64_t rows, std::int64_t columns, double* to,
                      std::int64_t to_step) {
  for (std::int64_t r = 0; r < rows; ++r)
    for (std::int64_t c = 0; c < columns; ++c) to[c * to_step + r] = from[r * from_step + c];
}

/// As many as 64 bytes hold.
template <class T>
struct Lanes;
template <>
struct Lanes<float> {
  using Vector = float __attribute__((vector_size(64), may_alias));
};
template <>
struct Lanes<double> {
  using Vector = double __attribute__((vector_size(64), may_alias));
};

/// c [Rows,32] (= or +=) a b. `Vectors` of 64 bytes beside each other stay in registers, for each row.
template <int Rows, int Vectors, class T>
[[gnu::noinline]] void multiply_rows(const Left<T>& a, std::int64_t rows, const T* b, std::int64_t depth, bool add,
                                     T* c) {
  using Vector = typename Lanes<T>::Vector;
  constexpr std::int64_t lanes = 64 / sizeof(T);
  const T* row[Rows];  // rows beyond the last repeat it and are not stored
  for (int i = 0; i < Rows; ++i) row[i] = a.at + std::min<std::int64_t>(i, rows - 1) * a.row_step;
  for (std::int64_t column = 0; column < block; column += Vectors * lanes) {
    Vector sum[Rows][Vectors];
#pragma GCC unroll 8
    for (int i = 0; i < Rows; ++i)
#pragma GCC unroll 4
      for (int v = 0; v < Vectors; ++v) sum[i][v] = Vector{};
    for (std::int64_t first = 0; first < depth; first += block) {
      std::int64_t at = first / block * a.block_step;
      const T* terms = b + first * block + column;
      for (std::int64_t d = 0; d < std::min(block, depth - first); ++d, at += a.depth_step, terms += block) {
        Vector right[Vectors];
#pragma GCC unroll 4
        for (int v = 0; v < Vectors; ++v) right[v] = *reinterpret_cast<const Vector*>(terms + v * lanes);
#pragma GCC unroll 8
        for (int i = 0; i < Rows; ++i)
#pragma GCC unroll 4
          for (int v = 0; v < Vectors; ++v) sum[i][v] += row[i][at] * right[v];
      }
    }
#pragma GCC unroll 8
    for (int i = 0; i < Rows; ++i) {
      if (i >= rows) break;
#pragma GCC unroll 4
      for (int v = 0; v < Vectors; ++v) {
        auto& to = *reinterpret_cast<Vector*>(c + i * block + column + v * lanes);
        to = add ? to + sum[i][v] : sum[i][v];
      }
    }
  }
}

/// Factors of type T, sums and results of Acc<T>. Memory of panels and results is on boundaries of 64 bytes.
template <class T>
class Tiles {
 public:
  static constexpr bool in_place = true;  // a result is a factor as it is

  explicit Tiles(const Cpu&) {}
  /// Around all products of a thread's task.
  void begin() const {}
  void end() const {}
  /// What n rows or terms take.
  static std::int64_t whole(std::int64_t n) { return n; }

  /// c [rows,32] (= or +=, if `add`) a b; `rows` and `depth` are whole(n).
  void multiply(const Left<T>& a, std::int64_t rows, const T* b, std::int64_t depth, bool add, T* c) const {
    // All of 32 vector registers, or of 16 that are half as wide.
    constexpr bool wide = std::experimental::native_simd<float>::size() == 16;
    constexpr int num_rows = wide ? 8 : 6, num_vectors = wide ? 2 : 1;
    for (std::int64_t i = 0; i < rows; i += num_rows)
      multiply_rows<num_rows, num_vectors>({a.at + i * a.row_step, a.row_step, a.depth_step, a.block_step}, rows - i, b,
                                           depth, add, c + i * block);
  }

  /// A right factor of 32 columns from 32 rows [32,padded(width)] of terms. panel: [padded(width),32].
  static void from_columns(const T* rows, std::int64_t width, T* panel) {
    transpose(rows, padded(width), block, width, panel, block);
  }
  /// 32 terms of a right factor from as many rows [32,padded(width)] of columns; a panel is `panel_step` behind the one
  /// before.
  static void from_rows(const T* rows, std::int64_t width, T* panels, std::int64_t panel_step) {
    for (std::int64_t panel = 0; panel < num_blocks(width); ++panel)
      for (std::int64_t i = 0; i < block; ++i)
        std::copy_n(rows + i * padded(width) + panel * block, block, panels + panel * panel_step + i * block);
  }
  /// A result [rows,32] as a right factor of 32 columns.
  static const T* as_right(const T* result, std::int64_t /*rows*/, T* /*room*/) { return result; }
  /// Results side by side, [rows,32] and `step` apart, as a left factor.
  static Left<T> left_of(const T* results, std::int64_t step, const T* /*room*/, std::int64_t /*room_step*/) {
    return {results, block, 1, step};
  }
  /// Number `panel` of them is a part of it.
  static void to_left(const T* /*result*/, std::int64_t /*rows*/, T* /*room*/, std::int64_t /*room_step*/) {}
  /// A block of it is zeros.
  static void clear_left(T* result, T* /*room*/, std::int64_t /*room_step*/) {
    std::fill_n(result, block * block, T(0));
  }
  /// Of a matrix whose rows are terms, [.,step].
  static Left<T> transposed(const T* rows, std::int64_t step, const T* /*columns*/, std::int64_t /*columns_step*/) {
    return {rows, 1, step, block * step};
  }
  /// What `transposed` reads beside the rows: [padded(width),columns_step] of 32 rows.
  static void to_columns(const T* /*rows*/, std::int64_t /*width*/, T* /*columns*/, std::int64_t /*columns_step*/) {}
};

/// A block of 32 terms of a panel is laid out as kernels/packed.h has it. Where terms are keys or queries, number i and
/// i + 16 of a block are a pair, in both factors, so that pairs are made of whole vectors.
template <>
class Tiles<bf16> {
 public:
  static constexpr bool in_place = false;

  explicit Tiles(const Cpu& cpu) : product_(tile_products()[cpu.cache->tile_product]) {}
  void begin() const { product_.begin(); }
  void end() const { product_.end(); }
  static std::int64_t whole(std::int64_t n) { return padded(n); }

  void multiply(const Left<bf16>& a, std::int64_t rows, const bf16* b, std::int64_t depth, bool add, float* c) const {
    for (std::int64_t i = 0; i < rows; i += block)
      product_.run(a.at + i * a.row_step, a.row_step, block, b, depth / block, add, c + i * block);
  }

  static void from_columns(const bf16* rows, std::int64_t width, bf16* panel) {
    for (std::int64_t first = 0; first < width; first += block)
      for (std::int64_t column = 0; column < block; column += 16, panel += 16 * block) {
        Pairs pairs[16];
        for (std::int64_t i = 0; i < 16; ++i)
          std::memcpy(&pairs[i], rows + (column + i) * padded(width) + first, sizeof(Pairs));
        kernels::transpose(pairs);
        std::memcpy(static_cast<void*>(panel), pairs, sizeof pairs);
      }
  }
  static void from_rows(const bf16* rows, std::int64_t width, bf16* panels, std::int64_t panel_step) {
    for (std::int64_t panel = 0; panel < num_blocks(width); ++panel)
      pair_up(rows + panel * block, padded(width), panels + panel * panel_step);
  }
  static const bf16* as_right(const float* result, std::int64_t rows, bf16* room) {
    for (std::int64_t i = 0; i < rows; i += block) pair_up(result + i * block, block, room + i * block);
    return room;
  }
  static Left<bf16> left_of(const float* /*results*/, std::int64_t /*step*/, const bf16* room, std::int64_t room_step) {
    return {room, room_step};
  }
  static void to_left(const float* result, std::int64_t rows, bf16* room, std::int64_t room_step) {
    for (std::int64_t i = 0; i < rows; ++i)
      make_pairs(result + i * block, result + i * block + 16, room + i * room_step);
  }
  static void clear_left(float* /*result*/, bf16* room, std::int64_t room_step) {
    for (std::int64_t i = 0; i < block; ++i) std::fill_n(room + i * room_step, block, bf16(0.F));
  }
  static Left<bf16> transposed(const bf16* /*rows*/, std::int64_t /*step*/, const bf16* columns,
                               std::int64_t columns_step) {
    return {columns, columns_step};
  }
  static void to_columns(const bf16* rows, std::int64_t width, bf16* columns, std::int64_t columns_step) {
    for (std::int64_t column = 0; column < padded(width); column += 16) {
      Pairs pairs[16];
      for (std::int64_t i = 0; i < 16; ++i) {
        const bf16* first = rows + i * padded(width) + column;
        make_pairs(first, first + 16 * padded(width), &pairs[i]);
      }
      kernels::transpose(pairs);
      for (std::int64_t i = 0; i < 16; ++i)
        std::memcpy(static_cast<void*>(columns + (column + i) * columns_step), &pairs[i], sizeof(Pairs));
    }
  }

 private:
  /// A block of a panel from 32 rows of 32 columns.
  template <class W>
  static void pair_up(const W* rows, std::int64_t step, bf16* to) {
    for (std::int64_t column = 0; column < block; column += 16)
      for (std::int64_t i = 0; i < 16; ++i, to += block)
        make_pairs(rows + i * step + column, rows + (i + 16) * step + column, to);
  }
  template <class W>
  static void make_pairs(const W* first, const W* second, void* to) {
    alignas(64) std::uint32_t both[16];
#pragma omp simd
    for (int i = 0; i < 16; ++i) both[i] = upper_half(first[i]) >> 16U | upper_half(second[i]);
    std::memcpy(to, both, sizeof both);
  }
  static std::uint32_t upper_half(bf16 x) { return static_cast<std::uint32_t>(x.bits) << 16U; }
  /// Rounded to nearest, in the middle away from zero: half the work of to even. What is no number stays so, since it
  /// comes from bfloat16 and has zeros in its lower half.
  static std::uint32_t upper_half(float x) { return (std::bit_cast<std::uint32_t>(x) + 0x8000U) & 0xffff0000U; }

  const TileProduct& product_;
};

}  // namespace limbeck::kernels::attention
