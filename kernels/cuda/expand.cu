// Compiled so that a product and a sum are rounded apart, as ggml's are.
#include "kernels/cuda/expand.h"

#include "kernels/block_values.h"
#include "kernels/blocks.h"
#include "kernels/cuda/grid.h"
#include "kernels/cuda/vector.cuh"

namespace limbeck::kernels {
namespace {

using block_values::Byte;

/// Values that the block's threads left in shared memory, a row each one place apart from being a multiple of the
/// banks, to neighbouring places in memory. `count` rows.
template <int width, class T>
__device__ void write_rows(const float* rows, std::int64_t count, T* to) {
  __syncthreads();
  const auto values = static_cast<int>(count < blockDim.x ? count : blockDim.x) * width;
  for (int i = static_cast<int>(threadIdx.x); i < values; i += static_cast<int>(blockDim.x))
    to[i] = rounded<T>(rows[i / width * (width + 1) + i % width]);
}

constexpr unsigned threads_256 = 32;  // of which each fills 1 KiB
constexpr unsigned threads_32 = 128;

/// A block of 256 values by a thread.
template <void (*block)(const Byte*, float*), int bytes, class T>
__global__ void expand_256_kernel(const Byte* from, std::int64_t count, T* to) {
  __shared__ float rows[threads_256 * 257];
  const std::int64_t first = std::int64_t{blockIdx.x} * threads_256, b = first + threadIdx.x;
  if (b < count) block(from + b * bytes, rows + threadIdx.x * 257);
  write_rows<256>(rows, count - first, to + first * 256);
}

/// A block of 32 values by a thread.
template <void (*block)(const Byte*, block_values::Quants&), int bytes, bool has_minimum, class T,
          float (*scale_at)(const Byte*) = block_values::half_at>
__global__ void expand_32_kernel(const Byte* from, std::int64_t count, T* to) {
  __shared__ float rows[threads_32 * 33];
  const std::int64_t first = std::int64_t{blockIdx.x} * threads_32, b = first + threadIdx.x;
  if (b < count) {
    block_values::Quants q;
    block(from + b * bytes, q);
    const float scale = scale_at(from + b * bytes);
    const float minimum = has_minimum ? block_values::half_at(from + b * bytes + 2) : 0;
#pragma unroll
    for (int i = 0; i < 32; ++i) {
      const float value = scale * static_cast<float>(q[i]);
      rows[threadIdx.x * 33 + i] = has_minimum ? value + minimum : value;
    }
  }
  write_rows<32>(rows, count - first, to + first * 32);
}

template <class T>
__global__ void expand_halves_kernel(const Byte* from, std::int64_t count, T* to) {
  const std::int64_t i = std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i < count) to[i] = rounded<T>(block_values::half_at(from + 2 * i));
}

}  // namespace

template <class T>
void expand(const Cuda& cuda, const Blocks& blocks, std::int64_t first, std::int64_t count, T* to) {
  namespace v = block_values;
  if (count == 0) return;
  const BlockSize size = size_of(blocks.format);
  const auto* from = reinterpret_cast<const Byte*>(blocks.from(first).data);
  const std::int64_t number = count / size.elements;
  const unsigned threads = size.elements == 256 ? threads_256 : threads_32;
  const auto run = [&](auto* kernel) {
    gpu::launch(cuda, kernel, dim3(static_cast<unsigned>(ceil_div(number, threads))), dim3(threads), 0, from, number,
                to);
  };
  switch (blocks.format) {
    case BlockFormat::F16:
      return run(expand_halves_kernel<T>);
    case BlockFormat::Q4_0:
      return run(expand_32_kernel<v::q4_0, 18, false, T>);
    case BlockFormat::Q4_1:
      return run(expand_32_kernel<v::q4_1, 20, true, T>);
    case BlockFormat::Q5_0:
      return run(expand_32_kernel<v::q5_0, 22, false, T>);
    case BlockFormat::Q5_1:
      return run(expand_32_kernel<v::q5_1, 24, true, T>);
    case BlockFormat::Q8_0:
      return run(expand_32_kernel<v::q8_0, 34, false, T>);
    case BlockFormat::Q2_K:
      return run(expand_256_kernel<v::q2_k, 84, T>);
    case BlockFormat::Q3_K:
      return run(expand_256_kernel<v::q3_k, 110, T>);
    case BlockFormat::Q4_K:
      return run(expand_256_kernel<v::q4_k, 144, T>);
    case BlockFormat::Q5_K:
      return run(expand_256_kernel<v::q5_k, 176, T>);
    case BlockFormat::Q6_K:
      return run(expand_256_kernel<v::q6_k, 210, T>);
    case BlockFormat::IQ4_NL:
      return run(expand_32_kernel<v::iq4_nl, 18, false, T>);
    case BlockFormat::IQ4_XS:
      return run(expand_256_kernel<v::iq4_xs, 136, T>);
    case BlockFormat::MXFP4:
      return run(expand_32_kernel<v::mxfp4, 17, false, T, v::e8m0_half_at>);
  }
}

template void expand(const Cuda&, const Blocks&, std::int64_t, std::int64_t, float*);
template void expand(const Cuda&, const Blocks&, std::int64_t, std::int64_t, bf16*);

}  // namespace limbeck::kernels
