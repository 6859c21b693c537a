#include "gpu.h"
#include "tests/cuda_emulation/samples/samples.h"

namespace limbeck::emulation::samples {
namespace {

using namespace kernels;

__global__ void by_barrier_kernel(int* memory) {
  __shared__ int values[64];
  for (int round = 0; round < 3; ++round) {
    values[threadIdx.x] = round;
    __syncthreads();
    memory[blockIdx.x * 64 + threadIdx.x] = values[63 - threadIdx.x];
    __syncthreads();
  }
}

__global__ void by_warp_barrier_kernel(int* memory) {
  __shared__ int values[64];
  values[threadIdx.x] = 1;
  __syncwarp();
  memory[blockIdx.x * 64 + threadIdx.x] = values[threadIdx.x ^ 31U];
}

__global__ void by_shuffle_kernel(int* memory) {
  __shared__ int values[64];
  values[threadIdx.x] = 1;
  const int x = __shfl_xor_sync(0xffffffffU, 1, 1);
  memory[blockIdx.x * 64 + threadIdx.x] = x + values[threadIdx.x ^ 31U];
}

__global__ void by_atomics_kernel(int* memory) {
  atomicAdd(memory, 1);
  atomicMax(memory + 1, static_cast<int>(threadIdx.x));
}

__global__ void own_bytes_kernel(int* memory) {
  reinterpret_cast<char*>(memory)[blockIdx.x * 64 + threadIdx.x] = 1;
  reinterpret_cast<short*>(memory + 64)[blockIdx.x * 64 + threadIdx.x] = 1;
}

__global__ void warps_without_barrier_kernel(int* memory) {
  __shared__ int values[64];
  values[threadIdx.x] = 1;
  __syncwarp();
  memory[blockIdx.x * 64 + threadIdx.x] = values[63 - threadIdx.x];
}

__global__ void lanes_without_barrier_kernel(int* memory) {
  __shared__ int values[64];
  values[threadIdx.x] = 1;
  memory[blockIdx.x * 64 + threadIdx.x] = values[threadIdx.x ^ 31U];
}

__global__ void blocks_of_a_launch_kernel(int* memory) { memory[threadIdx.x] = static_cast<int>(blockIdx.x); }

__global__ void atomics_and_others_kernel(int* memory) {
  if (threadIdx.x == 40)
    memory[0] = 1;
  else
    atomicAdd(memory, 1);
}

__global__ void read_then_written_kernel(int* memory) {
  __shared__ int values[64];
  values[threadIdx.x] = 1;
  __syncthreads();
  const int x = values[63 - threadIdx.x];
  values[threadIdx.x] = x;  // another has perhaps not read it yet
  memory[blockIdx.x * 64 + threadIdx.x] = x;
}

__global__ void shifted_kernel(const float* x, float* y, int n) {
  const int i = static_cast<int>(threadIdx.x);
  if (i < n) y[i] = x[i + 1];
}

}  // namespace

void share(const Cuda& cuda, Sharing sharing, int* memory) {
  const auto launch = [&](void (*kernel)(int*)) { gpu::launch(cuda, kernel, dim3(2), dim3(64), 0, memory); };
  switch (sharing) {
    case Sharing::by_barrier:
      return launch(by_barrier_kernel);
    case Sharing::by_warp_barrier:
      return launch(by_warp_barrier_kernel);
    case Sharing::by_shuffle:
      return launch(by_shuffle_kernel);
    case Sharing::by_atomics:
      return launch(by_atomics_kernel);
    case Sharing::own_bytes:
      return launch(own_bytes_kernel);
    case Sharing::warps_without_barrier:
      return launch(warps_without_barrier_kernel);
    case Sharing::lanes_without_barrier:
      return launch(lanes_without_barrier_kernel);
    case Sharing::blocks_of_a_launch:
      return launch(blocks_of_a_launch_kernel);
    case Sharing::atomics_and_others:
      return launch(atomics_and_others_kernel);
    case Sharing::read_then_written:
      return launch(read_then_written_kernel);
  }
}

void shifted(const Cuda& cuda, const float* x, float* y, int n) {
  gpu::launch(cuda, shifted_kernel, dim3(1), dim3(128), 0, x, y, n);
}

}  // namespace limbeck::emulation::samples
