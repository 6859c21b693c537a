#include "gpu.h"
#include "tests/cuda_emulation/samples/samples.h"

namespace limbeck::emulation::samples {
namespace {

using namespace kernels;

__global__ void affine_kernel(const float* x, float* y, std::int64_t n) {
  const std::int64_t i = std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i < n) y[i] = 2 * x[i] + 1;
}

__global__ void powers_of_2_kernel(const float* x, float* y, int n) {
  for (int i = static_cast<int>(threadIdx.x); i < n; i += 32) y[i] = gpu::power_of_2(x[i]);
}

__device__ float warp_sum(float value) {
  for (int distance = 16; distance > 0; distance /= 2) value += __shfl_xor_sync(0xffffffffU, value, distance);
  return value;
}

__global__ void row_sums_kernel(const float* x, float* sums, int width, bool with_barriers) {
  __shared__ float of_warp[32];
  const float* row = x + std::int64_t{blockIdx.x} * width;
  float sum = 0;
  for (int i = threadIdx.x; i < width; i += blockDim.x) sum += row[i];
  sum = warp_sum(sum);
  if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = sum;
  if (with_barriers) __syncthreads();
  if (threadIdx.x == 0) {
    sum = 0;
    for (unsigned w = 0; w < blockDim.x / 32; ++w) sum += of_warp[w];
    sums[blockIdx.x] = sum;
    for (unsigned w = 0; w < blockDim.x / 32; ++w) of_warp[w] = NAN;
  }
}

__global__ void copied_row_sums_kernel(const float* x, float* sums, int width, bool wait) {
  auto* row = gpu::dynamic_shared<float>();
  for (int i = 4 * threadIdx.x; i < width; i += 4 * blockDim.x)
    gpu::copy_async_or_zero(row + i, x + std::int64_t{blockIdx.x} * width + i, i > 0);
  gpu::commit_copies();
  if (wait) gpu::wait_copies<0>();
  __syncthreads();
  if (threadIdx.x != 0) return;
  float sum = 0;
  for (int i = 0; i < width; ++i) sum += row[i];
  sums[blockIdx.x] = sum;
}

__global__ void histogram_kernel(const int* x, int* counts, int n) {
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (i < n) atomicAdd(counts + x[i], 1);
}

__global__ void nothing_kernel() {}

}  // namespace

void affine(const Cuda& cuda, const float* x, float* y, std::int64_t n) {
  gpu::launch(cuda, affine_kernel, dim3(static_cast<unsigned>((n + 255) / 256)), dim3(256), 0, x, y, n);
}

void powers_of_2(const Cuda& cuda, const float* x, float* y, int n) {
  gpu::launch(cuda, powers_of_2_kernel, dim3(1), dim3(32), 0, x, y, n);
}

void row_sums(const Cuda& cuda, const float* x, float* sums, int rows, int width, bool with_barriers) {
  gpu::launch(cuda, row_sums_kernel, dim3(rows), dim3(256), 0, x, sums, width, with_barriers);
}

void copied_row_sums(const Cuda& cuda, const float* x, float* sums, int rows, int width, bool wait) {
  gpu::launch(cuda, copied_row_sums_kernel, dim3(rows), dim3(64), sizeof(float) * width, x, sums, width, wait);
}

void histogram(const Cuda& cuda, const int* x, int* counts, int n) {
  gpu::launch(cuda, histogram_kernel, dim3((n + 127) / 128), dim3(128), 0, x, counts, n);
}

void launch_nothing(const Cuda& cuda, unsigned blocks, unsigned threads, std::size_t shared_bytes) {
  gpu::launch(cuda, nothing_kernel, dim3(blocks), dim3(threads), shared_bytes);
}

}  // namespace limbeck::emulation::samples
