#include "gpu.h"
#include "tests/cuda_emulation/samples/samples.h"

namespace limbeck::emulation::samples {
namespace {

using namespace kernels;

constexpr unsigned all = 0xffffffffU;

__global__ void divergent_barrier_kernel() {
  if (threadIdx.x < 32)
    __syncthreads();
  else
    __syncthreads();
}

__global__ void half_a_warp_at_a_barrier_kernel(float* memory) {
  if (threadIdx.x < 16) __syncthreads();
  memory[threadIdx.x] = __shfl_sync(all, 1.0F, 0);
}

__global__ void divergent_shuffle_kernel(float* memory) {
  if (threadIdx.x % 2 == 0)
    memory[threadIdx.x] = __shfl_sync(all, 1.0F, 0);
  else
    memory[threadIdx.x] = __shfl_sync(all, 2.0F, 1);
}

__global__ void lane_outside_mask_kernel(float* memory) { memory[threadIdx.x] = __shfl_sync(0x0000ffffU, 1.0F, 0); }

__global__ void read_outside_mask_kernel(float* memory) {
  if (threadIdx.x < 16) memory[threadIdx.x] = __shfl_sync(0x0000ffffU, 1.0F, 20);
}

__global__ void beyond_static_shared_kernel(float* memory) {
  __shared__ float values[32];
  values[threadIdx.x + 1] = 1;
  __syncthreads();
  memory[threadIdx.x] = values[threadIdx.x];
}

__global__ void beyond_dynamic_shared_kernel() { gpu::dynamic_shared<float>()[threadIdx.x + 1] = 1; }

__global__ void misaligned_vector_kernel(float* memory) {
  *reinterpret_cast<float4*>(memory + 1) = make_float4(0, 0, 0, 0);
}

__global__ void misaligned_copy_kernel(float* memory) { gpu::copy_async(gpu::dynamic_shared<float>(), memory + 1); }

__device__ float deeper(volatile float* memory, int depth) {
  volatile float here[256] = {};
  here[depth % 256] = memory[0];
  return depth < 0 ? here[3] : deeper(here, depth + 1) + here[depth % 255];
}

__global__ void endless_recursion_kernel(float* memory) { memory[0] = deeper(memory, 1); }

}  // namespace

void break_a_rule(const Cuda& cuda, Fault fault, float* memory) {
  switch (fault) {
    case Fault::divergent_barrier:
      return gpu::launch(cuda, divergent_barrier_kernel, dim3(1), dim3(64), 0);
    case Fault::half_a_warp_at_a_barrier:
      return gpu::launch(cuda, half_a_warp_at_a_barrier_kernel, dim3(1), dim3(32), 0, memory);
    case Fault::divergent_shuffle:
      return gpu::launch(cuda, divergent_shuffle_kernel, dim3(1), dim3(32), 0, memory);
    case Fault::lane_outside_mask:
      return gpu::launch(cuda, lane_outside_mask_kernel, dim3(1), dim3(32), 0, memory);
    case Fault::read_outside_mask:
      return gpu::launch(cuda, read_outside_mask_kernel, dim3(1), dim3(32), 0, memory);
    case Fault::beyond_static_shared:
      return gpu::launch(cuda, beyond_static_shared_kernel, dim3(1), dim3(32), 0, memory);
    case Fault::beyond_dynamic_shared:
      return gpu::launch(cuda, beyond_dynamic_shared_kernel, dim3(1), dim3(32), 128);
    case Fault::misaligned_vector:
      return gpu::launch(cuda, misaligned_vector_kernel, dim3(1), dim3(1), 0, memory);
    case Fault::misaligned_copy:
      return gpu::launch(cuda, misaligned_copy_kernel, dim3(1), dim3(1), 128, memory);
    case Fault::endless_recursion:
      return gpu::launch(cuda, endless_recursion_kernel, dim3(1), dim3(1), 0, memory);
  }
}

}  // namespace limbeck::emulation::samples
