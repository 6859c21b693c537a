// Tile products (TileProduct::run) of single processors. Their files are compiled for instructions that the level
// x86-64-v4 does not have; they include nothing that other files have code of too.
#pragma once

#include <cstdint>

#include "kernels/bf16.h"

namespace limbeck::kernels {

/// Intel AMX's tile registers, which begin_amx_tiles divides.
void run_amx_tile(const bf16* a, std::int64_t step, std::int64_t rows, const bf16* panel, std::int64_t blocks, bool add,
                  float* tile);
void begin_amx_tiles();
void end_amx_tiles();

/// VDPBF16PS of AVX512_BF16.
void run_avx512_bf16_tile(const bf16* a, std::int64_t step, std::int64_t rows, const bf16* panel, std::int64_t blocks,
                          bool add, float* tile);

/// TileProduct::round by VCVTNE2PS2BF16, which takes denormals for 0, and TileProduct::stream by non-temporal stores,
/// which end_streams makes seen before what is stored next.
void round_rows_avx512_bf16(const float* from, std::int64_t from_step, std::int64_t rows, bf16* to,
                            std::int64_t to_step);
void stream_tile_avx512(const float* tile, std::int64_t rows, float* c, std::int64_t step);
void end_streams();

}  // namespace limbeck::kernels
