// The innermost part of products of bfloat16 matrices with float32 sums: one tile of the result, by what the processor
// has for it. Around it: kernels/cpu/packed.cpp.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

#include "kernels/bf16.h"

namespace limbeck::kernels {

inline constexpr std::int64_t tile_rows = 32;     // of the result; the first 16 of them can be had alone
inline constexpr std::int64_t tile_columns = 32;  // of the result: a panel of the packed factor
inline constexpr std::int64_t block_depth = 32;   // terms of a sum are taken by so many

/// to [rows,32] = from, rounded to nearest even; row i lies at from + i * from_step and at to + i * to_step.
void round_rows(const float* from, std::int64_t from_step, std::int64_t rows, bf16* to, std::int64_t to_step);
/// c [rows,32] = the tile, row i at c + i * step.
void copy_tile(const float* tile, std::int64_t rows, float* c, std::int64_t step);

struct TileProduct {
  std::string_view name;  // "AMX", "AVX-512 BF16", "float32"
  /// tile [rows,32] (= or +=, if `add`) A P over `blocks` blocks of 32 terms. A: 16 or 32 rows of 32 * blocks values,
  /// row i at a + i * step. P: a panel of 32 columns as kernels/packed.h lays it out. tile: row i at tile + 32 i, on a
  /// boundary of 64 bytes.
  void (*run)(const bf16* a, std::int64_t step, std::int64_t rows, const bf16* panel, std::int64_t blocks, bool add,
              float* tile);
  void (*begin)() = [] {};  // on the thread that calls run, before and after its calls
  void (*end)() = [] {};
  /// As the functions above. `stream` may write around the caches: c and its rows lie on boundaries of 64 bytes.
  void (*round)(const float* from, std::int64_t from_step, std::int64_t rows, bf16* to,
                std::int64_t to_step) = round_rows;
  void (*stream)(const float* tile, std::int64_t rows, float* c, std::int64_t step) = copy_tile;
};

/// Those that this build of the kernels and the processor have, the fastest first; the last one runs anywhere.
std::span<const TileProduct> tile_products();

}  // namespace limbeck::kernels
