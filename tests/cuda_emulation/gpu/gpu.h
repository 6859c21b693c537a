// kernels/cuda/gpu/gpu.h for the host's compiler: the same names and contracts, on the emulation.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <source_location>
#include <tuple>
#include <utility>

#include "kernels/cuda/cuda_state.h"
#include "tests/cuda_emulation/device/builtins.h"
#include "tests/cuda_emulation/fibers/block.h"
#include "tests/cuda_emulation/fibers/shared_memory.h"
#include "tests/cuda_emulation/fibers/tensor_core.h"
#include "tests/cuda_emulation/runtime/kernels.h"

namespace limbeck::kernels::gpu {

template <class... P, class... A>
void launch(const Cuda& cuda, void (*kernel)(P...), dim3 grid, dim3 block, std::size_t shared_bytes, A... args) {
  const emulation::Launch launched{
      reinterpret_cast<const void*>(kernel), grid, block, shared_bytes,
      [kernel, values = std::tuple<P...>(static_cast<P>(args)...)] { std::apply(kernel, values); }};
  emulation::check_launch(launched);
  if (shared_bytes > (std::size_t{16} << 10))
    check_cuda(cudaFuncSetAttribute(launched.kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                    static_cast<int>(shared_bytes)));
  emulation::launch_kernel(launched, cuda.state->stream);
  check_cuda(cudaGetLastError());
}

template <class T>
T* dynamic_shared() {
  return static_cast<T*>(emulation::dynamic_shared_begin());
}

inline void copy_async(void* shared, const void* global, std::source_location where = std::source_location::current()) {
  emulation::Block::running()->current()->copies.add(shared, global, where);
}
inline void copy_async_or_zero(void* shared, const void* global, bool valid,
                               std::source_location where = std::source_location::current()) {
  emulation::Block::running()->current()->copies.add(shared, valid ? global : nullptr, where);
}
inline void commit_copies() { emulation::Block::running()->current()->copies.commit(); }
template <int N>
void wait_copies() {
  emulation::Block::running()->current()->copies.wait(N);
}

inline void load_matrices(std::uint32_t (&m)[4], const void* row,
                          std::source_location where = std::source_location::current()) {
  emulation::load_matrices(m, row, false, where);
}
inline void load_matrices_transposed(std::uint32_t (&m)[4], const void* row,
                                     std::source_location where = std::source_location::current()) {
  emulation::load_matrices(m, row, true, where);
}
inline void multiply_add(float (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2],
                         std::source_location where = std::source_location::current()) {
  emulation::multiply_add(d, a, b, where);
}

// As exact as the host's.
inline float power_of_2(float x) {
  const float y = std::exp2(x);
  return y < std::numeric_limits<float>::min() ? 0 : y;
}

}  // namespace limbeck::kernels::gpu
