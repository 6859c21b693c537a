// A tile of bfloat16 in shared memory, in chunks of 8 values whose places are exchanged so that the eight rows that
// ldmatrix reads at once lie in different banks.
#pragma once

#include <cstdint>

#include "gpu.h"
#include "kernels/bf16.h"

namespace limbeck::kernels {

/// A matrix in global memory, of which tiles are read: what is outside is zeros.
struct GlobalMatrix {
  const bf16* values = nullptr;
  std::int64_t row = 0;                // values from a row to the next
  std::int64_t rows = 0, columns = 0;  // that there are
};

template <int Rows, int Columns>
struct SharedTile {
  static constexpr int chunks = Columns / 8;
  static constexpr int bytes = Rows * Columns * 2;
  bf16* values;

  /// Where the chunk of 8 values lies.
  __device__ bf16* at(int row, int chunk) const {
    const int moved = chunks >= 8 ? chunk ^ (row & 7) : chunk ^ ((row >> 1) & (chunks - 1));
    return values + (row * chunks + moved) * 8;
  }

  /// The tile from (row, column) of the matrix on, by asynchronous copies: columns are whole chunks, from places that
  /// are multiples of 16 bytes.
  __device__ void copy(const GlobalMatrix& from, std::int64_t row, std::int64_t column) const {
    for (int i = static_cast<int>(threadIdx.x); i < Rows * chunks; i += static_cast<int>(blockDim.x)) {
      const int r = i / chunks, c = i % chunks;
      const bool is_inside = row + r < from.rows && column + c * 8 < from.columns;
      gpu::copy_async_or_zero(at(r, c), is_inside ? from.values + (row + r) * from.row + column + c * 8 : from.values,
                              is_inside);
    }
  }

  /// The same, value by value, from any place.
  __device__ void read(const GlobalMatrix& from, std::int64_t row, std::int64_t column) const {
    for (int i = static_cast<int>(threadIdx.x); i < Rows * Columns; i += static_cast<int>(blockDim.x)) {
      const int r = i / Columns, c = i % Columns;
      const bool is_inside = row + r < from.rows && column + c < from.columns;
      bf16 zero;
      zero.bits = 0;
      at(r, c / 8)[c % 8] = is_inside ? from.values[(row + r) * from.row + column + c] : zero;
    }
  }
};

/// The left factor [16,16] of gpu::multiply_add from rows (m) of terms (k) that lie side by side.
template <class Tile>
__device__ void left_factor(const Tile& tile, int m, int k, std::uint32_t (&a)[4]) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  gpu::load_matrices(a, tile.at(m + lane % 16, k / 8 + lane / 16));
}
/// The same from a tile [terms,rows].
template <class Tile>
__device__ void left_factor_transposed(const Tile& tile, int m, int k, std::uint32_t (&a)[4]) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  gpu::load_matrices_transposed(a, tile.at(k + lane % 8 + lane / 16 * 8, m / 8 + lane / 8 % 2));
}
/// Two right factors [16,8] side by side, b[0..1] and b[2..3], from a tile [columns,terms].
template <class Tile>
__device__ void right_factors(const Tile& tile, int n, int k, std::uint32_t (&b)[4]) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  gpu::load_matrices(b, tile.at(n + lane % 8 + lane / 16 * 8, k / 8 + lane / 8 % 2));
}
/// The same from a tile [terms,columns].
template <class Tile>
__device__ void right_factors_transposed(const Tile& tile, int n, int k, std::uint32_t (&b)[4]) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  gpu::load_matrices_transposed(b, tile.at(k + lane % 16, n / 8 + lane / 16));
}

}  // namespace limbeck::kernels
