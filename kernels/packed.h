// Products of bfloat16 matrices with float32 sums, one factor packed: copied once into the order in which the products
// read it, rounded and padded, for many products. A linear layer with a weight [out,in]:
//
//     pack(cpu, 1, Transpose::Yes, in, out, weight, forward);           // W^T, [in,out]
//     pack(cpu, 1, Transpose::No, out, in, weight, backward);           // W, [out,in]
//     packed_matmul(cpu, rows, out, in, x, forward, 0.F, y);            // y  = x W^T
//     packed_matmul(cpu, rows, in, out, dy, backward, 0.F, dx);         // dx = dy W
//
// A factor that serves once need not be packed before: {Transpose::Yes, weight} in the place of `forward` gives the
// same bits. Then each task packs the columns that it multiplies with, in its caches.
//
// Equal arguments on equal processors give equal bits, whatever the number of threads. The terms of a sum are added in
// float32, in an order and roundings of the processor's own (kernels/cpu/tile_products.h).
#pragma once

#include <cstdint>

#include "device_set.h"
#include "kernels/bf16.h"
#include "kernels/blocks.h"
#include "kernels/matmul.h"

namespace limbeck::kernels {

/// Elements of a packed [k,n]: whole panels of 32 columns, of whole blocks of 32 rows. A panel's blocks follow each
/// other; a block is its columns 0 to 15, then 16 to 31; 16 columns are 16 pairs of rows; a pair is two neighbours of
/// every column.
constexpr std::int64_t packed_elements(std::int64_t k, std::int64_t n) {
  return (k + 31) / 32 * 32 * ((n + 31) / 32 * 32);
}

/// `count` matrices op(B) [k,n], one behind the other, each stored as [k,n], or as [n,k] if transposed. W is float
/// (rounded to nearest even) or bf16. packed: count * packed_elements(k, n), on a boundary of 64 bytes.
template <class D, class W>
void pack(const D& device, std::int64_t count, Transpose transpose_b, std::int64_t k, std::int64_t n, const W* b,
          bf16* packed);

/// One or several op(B) [k,n], one behind the other: packed, or as `pack` takes them, or [n,k] in blocks.
struct RightFactor {
  RightFactor(const bf16* p) : packed(p) {}  // NOLINT(google-explicit-constructor)
  RightFactor(Transpose t, const float* b) : transpose(t), wide(b) {}
  RightFactor(Transpose t, const bf16* b) : transpose(t), narrow(b) {}
  RightFactor(const Blocks& b) : transpose(Transpose::Yes), blocks(b) {}  // NOLINT(google-explicit-constructor)

  const bf16* packed = nullptr;
  Transpose transpose = Transpose::No;
  const float* wide = nullptr;
  const bf16* narrow = nullptr;
  Blocks blocks = {};
};

/// C [m,n] = A [m,k] B + beta C. C is bf16 (rounded once, behind the sum) or float. With beta = 0 its contents are
/// never read.
template <class D, class C>
void packed_matmul(const D& device, std::int64_t m, std::int64_t n, std::int64_t k, const bf16* a, const RightFactor& b,
                   float beta, C* c);

/// Groups of rows [offsets[e],offsets[e+1]) as in kernels/grouped_matmul.h, with one of `groups` B_e [k,n] each:
/// y_e = rows_e B_e + beta y_e. rows [R,k], y [R,n].
template <class D, class C>
void packed_grouped_matmul(const D& device, std::int64_t groups, std::int64_t n, std::int64_t k,
                           const std::int64_t* offsets, const bf16* rows, const RightFactor& b, float beta, C* y);

}  // namespace limbeck::kernels
