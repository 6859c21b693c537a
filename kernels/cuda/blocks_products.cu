#include <algorithm>
#include <stdexcept>
#include <string>
#include <type_traits>

#include "kernels/blocks.h"
#include "kernels/convert.h"
#include "kernels/cuda/expand.h"
#include "kernels/cuda/grid.h"
#include "kernels/cuda/grouped_product.h"
#include "kernels/cuda/pieces.h"
#include "kernels/cuda/vector.cuh"

namespace limbeck::kernels {
namespace {

/// Rows of an expanded part of the table, [count,width] from row `begin` on, to the tokens that they are of.
template <class T>
__global__ void take_rows_kernel(const std::int32_t* token, const T* part, std::int64_t begin, std::int64_t count, T* y,
                                 std::int64_t tokens, std::int64_t width) {
  for (std::int64_t t = blockIdx.x; t < tokens; t += gridDim.x) {
    const std::int64_t row = token[t] - begin;
    if (row < 0 || row >= count) continue;
    for (std::int64_t c = threadIdx.x; c < width; c += blockDim.x) y[t * width + c] = part[row * width + c];
  }
}

}  // namespace

template <class D>
void expand_blocks(const D& cuda, const Blocks& blocks, std::int64_t count, float* out) {
  expand(cuda, blocks, 0, count * size_of(blocks.format).elements, out);
}

template <class D, class T, class C>
void blocks_matmul(const D& cuda, std::int64_t m, std::int64_t n, std::int64_t k, const T* a, const Blocks& b,
                   float beta, C* c) {
  expand_and_multiply(cuda, {Transpose::No, Transpose::Yes, m, n, k}, a, static_cast<double>(beta), c,
                      [&](std::int64_t first, std::int64_t count, T* to) { expand(cuda, b, first, count, to); });
}

// The weights of as many groups as there is room for at a time.
template <class D, class T>
void blocks_grouped_matmul(const D& cuda, std::int64_t groups, std::int64_t out, std::int64_t in,
                           const std::int64_t* offsets, const T* rows, const Blocks& weight, float beta, T* y) {
  const std::int64_t size = out * in;
  if (groups == 0 || size == 0) return;
  const std::int64_t at_once = static_cast<std::int64_t>(CudaState::pieces_bytes / sizeof(T)) / size;
  if (at_once == 0)
    throw std::runtime_error("grouped product: an expert's weight [" + std::to_string(out) + "," + std::to_string(in) +
                             "] has no room on the GPU where blocks are expanded");
  T* const piece = static_cast<T*>(cuda.state->pieces());
  for (std::int64_t first = 0; first < groups; first += at_once) {
    const std::int64_t count = std::min(at_once, groups - first);
    expand(cuda, weight, first * size, count * size, piece);
    grouped_product(cuda, {count, out, in, Transpose::Yes}, offsets + first, rows, piece, static_cast<double>(beta), y);
  }
}

// The whole table is expanded, part by part: tokens are known to the device alone.
template <class D, class T>
void blocks_embedding(const D& cuda, const std::int32_t* token, const Blocks& table, T* y, std::int64_t tokens,
                      std::int64_t width, std::int64_t first, std::int64_t rows) {
  if (tokens == 0 || width == 0) return;
  check_cuda(cudaMemsetAsync(y, 0, static_cast<std::size_t>(tokens * width) * sizeof(T), cuda.state->stream));
  const std::int64_t at_once = static_cast<std::int64_t>(CudaState::pieces_bytes / sizeof(T)) / width;
  T* const part = static_cast<T*>(cuda.state->pieces());
  for (std::int64_t row = 0; row < rows; row += at_once) {
    const std::int64_t count = std::min(at_once, rows - row);
    expand(cuda, table, row * width, count * width, part);
    gpu::launch(cuda, take_rows_kernel<T>, blocks_for(cuda, tokens), dim3(usual_threads), 0, token, part, first + row,
                count, y, tokens, width);
  }
}

template void expand_blocks(const Cuda&, const Blocks&, std::int64_t, float*);
template void blocks_matmul(const Cuda&, std::int64_t, std::int64_t, std::int64_t, const float*, const Blocks&, float,
                            float*);
template void blocks_matmul(const Cuda&, std::int64_t, std::int64_t, std::int64_t, const bf16*, const Blocks&, float,
                            bf16*);
template void blocks_matmul(const Cuda&, std::int64_t, std::int64_t, std::int64_t, const bf16*, const Blocks&, float,
                            float*);
template void blocks_grouped_matmul(const Cuda&, std::int64_t, std::int64_t, std::int64_t, const std::int64_t*,
                                    const float*, const Blocks&, float, float*);
template void blocks_grouped_matmul(const Cuda&, std::int64_t, std::int64_t, std::int64_t, const std::int64_t*,
                                    const bf16*, const Blocks&, float, bf16*);
template void blocks_embedding(const Cuda&, const std::int32_t*, const Blocks&, float*, std::int64_t, std::int64_t,
                               std::int64_t, std::int64_t);
template void blocks_embedding(const Cuda&, const std::int32_t*, const Blocks&, bf16*, std::int64_t, std::int64_t,
                               std::int64_t, std::int64_t);

}  // namespace limbeck::kernels
