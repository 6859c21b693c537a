// Numbers in 8 bits, by blocks (Dettmers et al., 2022, "8-bit optimizers via block-wise quantization"): a block of 256
// values has one scale, its greatest magnitude, and a value is the code of the nearest of 256 fractions of it. Those
// are the "dynamic tree" type's, dense near 1 and with seven decimal exponents below.
//
//     Block8 blocks{codes, scales};                                  // [n] and [block8_count(n)]
//     block8_encode(cpu, Block8Map::Signed, x, n, blocks);
//     block8_decode(cpu, Block8Map::Signed, blocks, n, x);           // x, with an error of at most 1.05 % of the scale
#pragma once

#include <array>
#include <cstdint>

#include "device_set.h"
#include "kernels/adamw.h"

namespace limbeck::kernels {

inline constexpr std::int64_t block8_size = 256;
inline constexpr std::int64_t block8_count(std::int64_t n) { return (n + block8_size - 1) / block8_size; }

/// Which fractions a code stands for: of a mean of gradients, or of a mean of squares.
enum class Block8Map : bool { Signed, Unsigned };

/// The 256 fractions, ascending. For each exponent e from -6 to 0, 2^(e+6) (unsigned: twice as many) of them lie evenly
/// in 10^e * [0.1, 1], in the middle of their part; with both signs if signed; then 0 and 1. As bitsandbytes'
/// create_dynamic_map, save that the lowest signed one is -1, not -0.993: a block's greatest magnitude is then exact
/// whatever its sign, and values that were decoded are encoded to the same codes and scale again. Neighbours are
/// at most 0.9 / 64 apart (unsigned: 0.9 / 128), and a value half of that from the nearest, 0.70 % (0.35 %) of the
/// scale; but between -1 and the next one, -0.979, lies one and a half times as much, for -0.993 is not there: 1.05 %.
const std::array<float, 256>& block8_fractions(Block8Map map);

/// n values: value i is fraction(codes[i]) * scales[i / 256].
struct Block8 {
  std::uint8_t* codes;  // [n]
  float* scales;        // [block8_count(n)]
};

/// Nearest codes, the lower one of a tie. A block without a magnitude above 2^-100 becomes zeros.
template <class D>
void block8_encode(const D& device, Block8Map map, const float* x, std::int64_t n, Block8 blocks);

template <class D>
void block8_decode(const D& device, Block8Map map, Block8 blocks, std::int64_t n, float* x);

/// kernels/adamw.h's step with moments that are decoded before and encoded after it, block by block: the mean as
/// Signed, the mean of squares as Unsigned. The weight sees the moments before they are encoded.
template <class D>
void adamw_block8(const D& device, const AdamWFactors<float>* factors, const double* grad_scale, const float* dx,
                  float* x, Block8 mean, Block8 mean_square, std::int64_t n, bf16* rounded = nullptr);

}  // namespace limbeck::kernels
