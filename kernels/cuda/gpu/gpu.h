// What kernels use beyond CUDA's own names: their launch, dynamic shared memory, asynchronous copies and the products
// of the tensor cores. tests/cuda_emulation has a header of this name for the host's compiler; CMake chooses by the
// include path.
//
//     launch(cuda, swiglu_kernel<T>, blocks, threads, /*shared_bytes=*/0, gate, up, y, n);
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/cuda_state.h"

namespace limbeck::kernels::gpu {

/// Queues kernel(args...) on the device's stream; throws where CUDA refuses. Much dynamic shared memory is asked
/// for on the way: with the static one more than 48 KiB.
template <class... P, class... A>
void launch(const Cuda& cuda, void (*kernel)(P...), dim3 grid, dim3 block, std::size_t shared_bytes, A... args) {
  if (shared_bytes > (std::size_t{16} << 10))
    check_cuda(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel), cudaFuncAttributeMaxDynamicSharedMemorySize,
                                    static_cast<int>(shared_bytes)));
  kernel<<<grid, block, shared_bytes, cuda.state->stream>>>(static_cast<P>(args)...);
  check_cuda(cudaGetLastError());
}

/// The block's dynamic shared memory, from a multiple of 128 bytes on.
template <class T>
__device__ T* dynamic_shared() {
  extern __shared__ __align__(128) unsigned char limbeck_dynamic_shared[];
  return reinterpret_cast<T*>(limbeck_dynamic_shared);
}

/// 16 bytes from global to shared memory, both multiples of 16, while the thread goes on (cp.async, past the first
/// cache). They are there for the thread after wait_copies and for its block after __syncthreads().
__device__ inline void copy_async(void* shared, const void* global) {
  const auto to = static_cast<std::uint32_t>(__cvta_generic_to_shared(shared));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(global) : "memory");
}
/// The same, or 16 bytes of zeros where `valid` is false; nothing is read then.
__device__ inline void copy_async_or_zero(void* shared, const void* global, bool valid) {
  const auto to = static_cast<std::uint32_t>(__cvta_generic_to_shared(shared));
  const int bytes = valid ? 16 : 0;
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(global), "r"(bytes) : "memory");
}
/// Ends a group of copies.
__device__ inline void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
/// Until at most N of the groups are under way.
template <int N>
__device__ void wait_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

/// Four 8 x 8 matrices of 16-bit numbers for a warp: lane l gives the place of a row of 16 bytes, of matrix l / 8, and
/// gets of each matrix the two numbers of row lane / 4 from column 2 (lane % 4) on (PTX: ldmatrix.x4).
__device__ inline void load_matrices(std::uint32_t (&m)[4], const void* row) {
  const auto from = static_cast<std::uint32_t>(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(m[0]), "=r"(m[1]), "=r"(m[2]), "=r"(m[3])
               : "r"(from)
               : "memory");
}
/// The same, each matrix transposed.
__device__ inline void load_matrices_transposed(std::uint32_t (&m)[4], const void* row) {
  const auto from = static_cast<std::uint32_t>(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(m[0]), "=r"(m[1]), "=r"(m[2]), "=r"(m[3])
               : "r"(from)
               : "memory");
}

/// d [16,8] += a [16,16] b [16,8], of bfloat16 with sums in float32, by a warp (PTX: mma.m16n8k16.row.col). With g =
/// lane / 4 and t = lane % 4, lower half first: a[0] = A[g][2t, 2t+1], a[1] = A[g+8][2t..], a[2] = A[g][2t+8..], a[3] =
/// A[g+8][2t+8..]; b[0] = B[2t, 2t+1][g], b[1] = B[2t+8, 2t+9][g]; d[0,1] = D[g][2t, 2t+1], d[2,3] = D[g+8][2t..].
__device__ inline void multiply_add(float (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

/// 2^x by the processor's approximation (PTX: ex2.approx.ftz): results below 2^-126 are 0.
__device__ inline float power_of_2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

}  // namespace limbeck::kernels::gpu
