// Compiled so that a product and a sum are rounded apart, as ggml's are.
#include "kernels/cuda/expand.h"

#include "kernels/block_values.h"
#include "kernels/blocks.h"
#include "kernels/cuda/grid.h"
#include "kernels/cuda/vector.cuh"

namespace limbeck::kernels {
namespace {

using block_values::Byte;

/// A block of 256 values by a thread.
template <void (*block)(const Byte*, float*), int bytes, class T>
__global__ void expand_256_kernel(const Byte* from, std::int64_t count, T* to) {
  const std::int64_t b = std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (b >= count) return;
  float values[256];
  block(from + b * bytes, values);
  for (int i = 0; i < 256; ++i) to[b * 256 + i] = rounded<T>(values[i]);
}

/// A block of 32 values by a thread.
template <void (*block)(const Byte*, block_values::Quants&), int bytes, bool has_minimum, class T>
__global__ void expand_32_kernel(const Byte* from, std::int64_t count, T* to) {
  const std::int64_t b = std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (b >= count) return;
  block_values::Quants q;
  block(from + b * bytes, q);
  const float scale = block_values::half_at(from + b * bytes);
  const float minimum = has_minimum ? block_values::half_at(from + b * bytes + 2) : 0;
  for (int i = 0; i < 32; ++i) {
    const float value = scale * static_cast<float>(q[i]);
    to[b * 32 + i] = rounded<T>(has_minimum ? value + minimum : value);
  }
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
  const auto run = [&](auto* kernel) {
    gpu::launch(cuda, kernel, dim3(static_cast<unsigned>(ceil_div(number, 128))), dim3(128), 0, from, number, to);
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
  }
}

template void expand(const Cuda&, const Blocks&, std::int64_t, std::int64_t, float*);
template void expand(const Cuda&, const Blocks&, std::int64_t, std::int64_t, bf16*);

}  // namespace limbeck::kernels
