// The expansion of blocks. Compiled so that a product and a sum are rounded apart, as ggml's are.
#include "kernels/blocks.h"

#include <algorithm>
#include <cstring>

#include "kernels/block_values.h"

namespace limbeck::kernels {
namespace {

using block_values::Byte;

void expand_halves(const Byte* __restrict from, std::int64_t count, float* __restrict out) {
#pragma omp simd
  for (std::int64_t i = 0; i < count; ++i) {
    std::uint16_t bits = 0;
    std::memcpy(&bits, from + 2 * i, sizeof bits);  // one load, of which vectors are made
    out[i] = float_from_half(bits);
  }
}

/// Blocks whose values stand behind their halves.
template <void (*block)(const Byte*, float*), std::int64_t bytes, std::int64_t elements>
void expand_all(const Byte* from, std::int64_t count, float* out) {
  for (std::int64_t i = 0; i < count; ++i) block(from + i * bytes, out + i * elements);
}

/// Out of line: within a loop over blocks GCC takes a loop of 16 apart before it would make vectors of it.
template <void (*block)(const Byte*, block_values::Quants&)>
[[gnu::noinline]] void integers(const Byte* from, block_values::Quants& q) {
  block(from, q);
}

template <void (*block)(const Byte*, block_values::Quants&), std::int64_t bytes, bool has_minimum>
void expand_32(const Byte* from, std::int64_t count, float* __restrict out) {
  constexpr std::int64_t at_once = block_values::blocks_at_once;
  float scales[at_once], minima[at_once];
  for (std::int64_t first = 0; first < count; first += at_once, from += at_once * bytes) {
    const std::int64_t n = std::min(at_once, count - first);
    block_values::read_scales<bytes, has_minimum>(from, n, scales, minima);
    for (std::int64_t i = 0; i < n; ++i) {
      block_values::Quants q;
      integers<block>(from + i * bytes, q);
#pragma omp simd
      for (int j = 0; j < 32; ++j)
        out[j] = has_minimum ? scales[i] * static_cast<float>(q[j]) + minima[i] : scales[i] * static_cast<float>(q[j]);
      out += 32;
    }
  }
}

void expand_mxfp4(const Byte* from, std::int64_t count, float* __restrict out) {
  for (std::int64_t i = 0; i < count; ++i, from += 17, out += 32) {
    block_values::Quants q;
    block_values::mxfp4(from, q);
    const float scale = block_values::e8m0_half_at(from);
#pragma omp simd
    for (int j = 0; j < 32; ++j) out[j] = scale * static_cast<float>(q[j]);
  }
}

/// Of blocks whose scales in half precision are at these places.
template <int... halves>
bool has_finite_halves(const Byte* block) {
  return (... && ((block_values::half_bits_at(block + halves) & 0x7c00) != 0x7c00));
}
bool has_small_exponent(const Byte* block) { return block[0] <= block_values::mxfp4_greatest_scale; }

struct Format {
  BlockSize size;
  void (*expand)(const Byte* from, std::int64_t count, float* out);
  bool (*is_finite)(const Byte* block);
};

template <void (*block)(const Byte*, block_values::Quants&), std::int64_t bytes, bool has_minimum>
constexpr Format of_32() {
  constexpr int minimum = has_minimum ? 2 : 0;
  return {{bytes, 32}, expand_32<block, bytes, has_minimum>, has_finite_halves<0, minimum>};
}
template <void (*block)(const Byte*, float*), std::int64_t bytes, int... halves>
constexpr Format of_256() {
  return {{bytes, 256}, expand_all<block, bytes, 256>, has_finite_halves<halves...>};
}

// In the order of BlockFormat.
constexpr Format formats[] = {
    {{2, 1}, expand_halves, has_finite_halves<0>}, of_32<block_values::q4_0, 18, false>(),
    of_32<block_values::q4_1, 20, true>(),         of_32<block_values::q5_0, 22, false>(),
    of_32<block_values::q5_1, 24, true>(),         of_32<block_values::q8_0, 34, false>(),
    of_256<block_values::q2_k, 84, 80, 82>(),      of_256<block_values::q3_k, 110, 108>(),
    of_256<block_values::q4_k, 144, 0, 2>(),       of_256<block_values::q5_k, 176, 0, 2>(),
    of_256<block_values::q6_k, 210, 208>(),        of_32<block_values::iq4_nl, 18, false>(),
    of_256<block_values::iq4_xs, 136, 0>(),        {{17, 32}, expand_mxfp4, has_small_exponent},
};

const Format& info(BlockFormat format) { return formats[static_cast<std::size_t>(format)]; }

}  // namespace

BlockSize size_of(BlockFormat format) { return info(format).size; }

void expand(const Blocks& blocks, std::int64_t count, float* out) {
  info(blocks.format).expand(reinterpret_cast<const Byte*>(blocks.data), count, out);
}

std::int64_t first_not_finite(const Blocks& blocks, std::int64_t count) {
  const Format& format = info(blocks.format);
  const auto* block = reinterpret_cast<const Byte*>(blocks.data);
  for (std::int64_t i = 0; i < count; ++i, block += format.size.bytes)
    if (!format.is_finite(block)) return i;
  return count;
}

}  // namespace limbeck::kernels
