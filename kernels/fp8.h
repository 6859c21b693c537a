// Products of factors in FP8: e4m3 values times a float32 scale for each block of 128. A linear layer with a weight
// [out,in]:
//
//     quantise_blocks(cpu, out, in, weight, w, w_scales, wt, wt_scales);                  // W, and W^T beside it
//     quantise_rows(cpu, rows, in, x, x8, x_scales);
//     fp8_matmul(cpu, rows, out, in, {x8, x_scales}, {w, w_scales}, 0.F, y);              // y  = x W^T
//     quantise_rows(cpu, rows, out, dy, dy8, dy_scales);
//     fp8_matmul(cpu, rows, in, out, {dy8, dy_scales}, {wt, wt_scales}, 0.F, dx);         // dx = dy W
//
// Rows are scaled by blocks of 1 x 128 along what is summed, weights by blocks of 128 x 128 (DeepSeek-V3,
// section 3.3.2, https://arxiv.org/abs/2412.19437), so that W^T has the blocks of W. A scale is a block's greatest
// absolute value over 448, or 1 where none reaches 2^-100, which makes zeros of the block; a value becomes e4m3(x * (1
// / scale)). What is not finite is a NaN in all results that it is a term of, and so is the block of an infinity. The
// sign of a NaN is not said.
//
// Scales lie as cuBLASLt reads them (its manual, 3.1.4.5.1 "Scaling factors layouts"; PyTorch's ScaledBlas.cpp asks for
// the same): those of rows [blocks,rows], so that a block's lie side by side; those of a weight [blocks of its rows,
// blocks of what is summed], each row filled up with zeros to a multiple of 4.
#pragma once

#include <cstdint>

#include "device_set.h"
#include "kernels/bf16.h"
#include "kernels/e4m3.h"

namespace limbeck::kernels {

inline constexpr std::int64_t fp8_block = 128;
constexpr std::int64_t fp8_blocks(std::int64_t n) { return (n + fp8_block - 1) / fp8_block; }
/// How many scales rows [rows,k] have, a row of a weight's, and all of a weight [n,k].
constexpr std::int64_t num_row_scales(std::int64_t rows, std::int64_t k) { return rows * fp8_blocks(k); }
constexpr std::int64_t block_scales_row(std::int64_t k) { return (fp8_blocks(k) + 3) / 4 * 4; }
constexpr std::int64_t num_block_scales(std::int64_t n, std::int64_t k) { return fp8_blocks(n) * block_scales_row(k); }

/// Of a block whose greatest absolute value this is, NaN left out.
constexpr float fp8_scale(float greatest) { return greatest < 0x1p-100F ? 1.F : greatest / e4m3::largest; }

/// A matrix whose rows are what is summed, and its scales. On GPUs both begin at multiples of 16 bytes.
struct Fp8Factor {
  const e4m3* values = nullptr;
  const float* scales = nullptr;
};

/// Whether a device's products of FP8 are faster than those of bfloat16: it has them in its arithmetic. Else they have
/// the same factors, widened to float32.
template <class D>
bool has_fp8_products(const D& device);

/// x [rows,k] in blocks of 1 x 128; num_row_scales(rows, k) scales.
template <class D>
void quantise_rows(const D& device, std::int64_t rows, std::int64_t k, const bf16* x, e4m3* values, float* scales);

/// w [rows,columns] in blocks of 128 x 128, as it lies and transposed; num_block_scales(rows, columns) scales of the
/// one, num_block_scales(columns, rows) of the other. W is float or bf16.
template <class D, class W>
void quantise_blocks(const D& device, std::int64_t rows, std::int64_t columns, const W* w, e4m3* values, float* scales,
                     e4m3* transposed, float* transposed_scales);

/// C [m,n] = A B^T + beta C, of rows A [m,k] and a weight B [n,k], with sums in float32. C is bf16 (rounded once,
/// behind the sum) or float. With beta = 0 its contents are never read.
template <class D, class C>
void fp8_matmul(const D& device, std::int64_t m, std::int64_t n, std::int64_t k, const Fp8Factor& a, const Fp8Factor& b,
                float beta, C* c);

}  // namespace limbeck::kernels
