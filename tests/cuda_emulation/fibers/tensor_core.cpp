#include "tests/cuda_emulation/fibers/tensor_core.h"

#include <array>
#include <bit>
#include <cstring>

#include "tests/cuda_emulation/fibers/block.h"
#include "tests/cuda_emulation/fibers/shared_memory.h"
#include "tests/cuda_emulation/races/shadow.h"
#include "tests/cuda_emulation/report.h"

namespace limbeck::emulation {

namespace {

using Lanes = std::array<void*, 32>;

void check_whole_warp(const char* what, const Lanes& lanes) {
  for (unsigned l = 0; l < 32; ++l)
    if (lanes[l] == nullptr) fail("{}: lane {} takes no part, expected the whole warp", what, l);
}

struct LoadLane {
  std::uint32_t* m;
  const void* row;
  bool transposed;
};

void combine_load(const Lanes& lanes) {
  check_whole_warp("ldmatrix", lanes);
  std::array<std::array<std::array<std::uint16_t, 8>, 8>, 4> matrices;
  for (unsigned l = 0; l < 32; ++l)
    std::memcpy(matrices[l / 8][l % 8].data(), static_cast<const LoadLane*>(lanes[l])->row, 16);
  for (unsigned l = 0; l < 32; ++l) {
    const auto* lane = static_cast<const LoadLane*>(lanes[l]);
    const unsigned row = l / 4;
    const unsigned column = 2 * (l % 4);
    for (unsigned i = 0; i < 4; ++i) {
      const auto& x = matrices[i];
      const std::uint32_t low = lane->transposed ? x[column][row] : x[row][column];
      const std::uint32_t high = lane->transposed ? x[column + 1][row] : x[row][column + 1];
      lane->m[i] = low | high << 16;
    }
  }
}

struct MultiplyLane {
  float* d;
  const std::uint32_t* a;
  const std::uint32_t* b;
};

float low_half(std::uint32_t pair) { return std::bit_cast<float>(pair << 16); }
float high_half(std::uint32_t pair) { return std::bit_cast<float>(pair & 0xffff0000U); }

void combine_multiply(const Lanes& lanes) {
  check_whole_warp("mma", lanes);
  float a[16][16];
  float b[16][8];
  float d[16][8];
  for (unsigned l = 0; l < 32; ++l) {
    const auto* lane = static_cast<const MultiplyLane*>(lanes[l]);
    const unsigned g = l / 4;
    const unsigned t = 2 * (l % 4);
    for (unsigned i = 0; i < 4; ++i) {
      const unsigned row = g + i % 2 * 8;
      const unsigned column = t + i / 2 * 8;
      a[row][column] = low_half(lane->a[i]);
      a[row][column + 1] = high_half(lane->a[i]);
      d[g + i / 2 * 8][t + i % 2] = lane->d[i];
    }
    for (unsigned i = 0; i < 2; ++i) {
      b[t + i * 8][g] = low_half(lane->b[i]);
      b[t + i * 8 + 1][g] = high_half(lane->b[i]);
    }
  }
  for (unsigned row = 0; row < 16; ++row)
    for (unsigned k = 0; k < 16; ++k)
      for (unsigned column = 0; column < 8; ++column) d[row][column] += a[row][k] * b[k][column];
  for (unsigned l = 0; l < 32; ++l)
    for (unsigned i = 0; i < 4; ++i)
      static_cast<const MultiplyLane*>(lanes[l])->d[i] = d[l / 4 + i / 2 * 8][2 * (l % 4) + i % 2];
}

}  // namespace

void load_matrices(std::uint32_t (&m)[4], const void* row, bool transposed, const std::source_location& where) {
  if (reinterpret_cast<std::uintptr_t>(row) % 16 != 0 || !is_shared(row))
    fail("ldmatrix at {}: a row at {}, expected a multiple of 16 in shared memory", text_of(where), row);
  note_access(row, 16, Touch::read, __builtin_return_address(0));
  LoadLane lane{m, row, transposed};
  Block::running()->collective("ldmatrix", where, ~0U, &lane, combine_load);
}

void multiply_add(float (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2],
                  const std::source_location& where) {
  MultiplyLane lane{d, a, b};
  Block::running()->collective("mma", where, ~0U, &lane, combine_multiply);
}

}  // namespace limbeck::emulation
