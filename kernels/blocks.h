// Matrices in ggml's storage formats, of which products read the blocks as they lie in a file: a weight takes 4 to 8
// bits instead of 32, and no copy of it is made. Values are those that ggml computes, bit by bit; they are expanded by
// rows or tiles in the caches, and multiplied as float32 or, beside bfloat16 activations, rounded to bfloat16.
//
//     const Blocks w{BlockFormat::Q4_1, bytes};                          // [out,in], in a multiple of 32
//     blocks_matmul(cpu, rows, out, in, x, w, 0.F, y);                   // y = x W^T
//
// The formats: ggml-quants.c of https://github.com/ggml-org/llama.cpp.
#pragma once

#include <cstddef>
#include <cstdint>

#include "device_set.h"
#include "kernels/bf16.h"

namespace limbeck::kernels {

enum class BlockFormat : std::uint8_t {
  F16,  // blocks of one value
  Q4_0,
  Q4_1,
  Q5_0,
  Q5_1,
  Q8_0,
  Q2_K,
  Q3_K,
  Q4_K,
  Q5_K,
  Q6_K,
  IQ4_NL,
  IQ4_XS,
  MXFP4
};

struct BlockSize {
  std::int64_t bytes = 0;
  std::int64_t elements = 0;
};
BlockSize size_of(BlockFormat format);

/// One or several matrices, one behind the other, whose rows are whole blocks. The bytes need no alignment.
struct Blocks {
  BlockFormat format = BlockFormat::F16;
  const std::byte* data = nullptr;

  /// From element `first` on, which begins a block.
  Blocks from(std::int64_t first) const {
    const BlockSize size = size_of(format);
    return {format, data + first / size.elements * size.bytes};
  }
};

/// The values of `count` blocks. By the host's processor.
void expand(const Blocks& blocks, std::int64_t count, float* out);

/// The same on the device.
template <class D>
void expand_blocks(const D& device, const Blocks& blocks, std::int64_t count, float* out);

/// The first block of `count` with a scale that is infinite, NaN or, of MXFP4, so large that a value might be infinite;
/// count where there is none. All values of the others
/// are finite.
std::int64_t first_not_finite(const Blocks& blocks, std::int64_t count);

/// C [m,n] = A [m,k] B^T + beta C, B [n,k]. (T,C): (float,float), (bf16,bf16) and (bf16,float), as kernels/matmul.h and
/// kernels/packed.h have them.
template <class D, class T, class C>
void blocks_matmul(const D& device, std::int64_t m, std::int64_t n, std::int64_t k, const T* a, const Blocks& b,
                   float beta, C* c);

/// As kernels/grouped_matmul.h: y_e = rows_e W_e^T + beta y_e. T is float or bf16.
template <class D, class T>
void blocks_grouped_matmul(const D& device, std::int64_t groups, std::int64_t out, std::int64_t in,
                           const std::int64_t* offsets, const T* rows, const Blocks& weight, float beta, T* y);

/// As kernels/embedding.h, of a table [rows,width]. T is float or bf16.
template <class D, class T>
void blocks_embedding(const D& device, const std::int32_t* token, const Blocks& table, T* y, std::int64_t tokens,
                      std::int64_t width, std::int64_t first, std::int64_t rows);

}  // namespace limbeck::kernels
