#include <immintrin.h>

#include "kernels/cpu/tile_v4.h"

namespace limbeck::kernels {
namespace {

/// What LDTILECFG reads (Intel's manual, volume 1, 18.3): eight registers of 16 rows of 64 bytes.
struct alignas(64) TileConfig {
  std::uint8_t palette = 1;
  std::uint8_t start_row = 0;
  std::uint8_t reserved[14] = {};
  std::uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  std::uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

constexpr TileConfig all_registers;
constexpr long row_of_tile = 32 * sizeof(float);
constexpr long row_of_pairs = 64;
constexpr std::int64_t half_block = 16 * 32;  // values of a block's 16 columns

// Registers 0 to 3: the quarters of the result; 4 and 5: of A's rows; 6 and 7: of the panel's columns.
void multiply_16(const bf16* a, long step, const bf16* panel, std::int64_t blocks) {
  for (std::int64_t i = 0; i < blocks; ++i, a += 32, panel += 2 * half_block) {
    _tile_loadd(4, a, step);
    _tile_loadd(6, panel, row_of_pairs);
    _tile_dpbf16ps(0, 4, 6);
    _tile_loadd(7, panel + half_block, row_of_pairs);
    _tile_dpbf16ps(1, 4, 7);
  }
}

void multiply_32(const bf16* a, long step, const bf16* panel, std::int64_t blocks) {
  const bf16* below = a + 16 * (step / static_cast<long>(sizeof(bf16)));
  for (std::int64_t i = 0; i < blocks; ++i, a += 32, below += 32, panel += 2 * half_block) {
    _tile_loadd(4, a, step);
    _tile_loadd(6, panel, row_of_pairs);
    _tile_dpbf16ps(0, 4, 6);
    _tile_loadd(7, panel + half_block, row_of_pairs);
    _tile_dpbf16ps(1, 4, 7);
    _tile_loadd(5, below, step);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  }
}

}  // namespace

void run_amx_tile(const bf16* a, std::int64_t step, std::int64_t rows, const bf16* panel, std::int64_t blocks, bool add,
                  float* tile) {
  float* below = tile + 16 * 32;
  if (add) {
    _tile_loadd(0, tile, row_of_tile);
    _tile_loadd(1, tile + 16, row_of_tile);
  } else {
    _tile_zero(0);
    _tile_zero(1);
  }
  const long step_bytes = step * static_cast<long>(sizeof(bf16));
  if (rows == 16) {
    multiply_16(a, step_bytes, panel, blocks);
  } else {
    if (add) {
      _tile_loadd(2, below, row_of_tile);
      _tile_loadd(3, below + 16, row_of_tile);
    } else {
      _tile_zero(2);
      _tile_zero(3);
    }
    multiply_32(a, step_bytes, panel, blocks);
    _tile_stored(2, below, row_of_tile);
    _tile_stored(3, below + 16, row_of_tile);
  }
  _tile_stored(0, tile, row_of_tile);
  _tile_stored(1, tile + 16, row_of_tile);
}

void begin_amx_tiles() { _tile_loadconfig(&all_registers); }
void end_amx_tiles() {
  _tile_release();
  end_streams();
}

}  // namespace limbeck::kernels
