#include "gpu.h"
#include "tests/cuda_emulation/samples/samples.h"

namespace limbeck::emulation::samples {
namespace {

using namespace kernels;

constexpr unsigned all = 0xffffffffU;

__global__ void tile_product_kernel(const std::uint16_t* a, const std::uint16_t* b, float* c, bool b_transposed) {
  __shared__ __align__(16) std::uint16_t a_tile[16 * 16];
  __shared__ __align__(16) std::uint16_t b_tile[16 * 16];
  const unsigned lane = threadIdx.x, g = lane / 4, t = lane % 4;
  for (unsigned i = lane; i < 16 * 16; i += 32) a_tile[i] = a[i];
  for (unsigned i = lane; i < 16 * 8; i += 32) b_tile[b_transposed ? i : i / 8 * 16 + i % 8] = b[i];
  __syncwarp();
  std::uint32_t af[4], bf[4];
  gpu::load_matrices(af, a_tile + (lane / 8 % 2 * 8 + lane % 8) * 16 + lane / 16 * 8);
  if (b_transposed)  // rows are columns of B: matrix 0 has its rows 0..7, matrix 1 the others
    gpu::load_matrices(bf, b_tile + lane % 8 * 16 + lane / 8 % 2 * 8);
  else
    gpu::load_matrices_transposed(bf, b_tile + lane % 16 * 16);
  float d[4] = {c[g * 8 + 2 * t], c[g * 8 + 2 * t + 1], c[(g + 8) * 8 + 2 * t], c[(g + 8) * 8 + 2 * t + 1]};
  const std::uint32_t b_fragment[2] = {bf[0], bf[1]};
  gpu::multiply_add(d, af, b_fragment);
  c[g * 8 + 2 * t] = d[0];
  c[g * 8 + 2 * t + 1] = d[1];
  c[(g + 8) * 8 + 2 * t] = d[2];
  c[(g + 8) * 8 + 2 * t + 1] = d[3];
}

__global__ void warp_functions_kernel(int* results) {
  const int lane = static_cast<int>(threadIdx.x);
  int* r = results + lane * 14;
  r[0] = __shfl_sync(all, lane, 5);
  r[1] = __shfl_sync(all, lane, 5, 8);
  r[2] = __shfl_xor_sync(all, lane, 3);
  r[3] = __shfl_up_sync(all, lane, 2);
  r[4] = __shfl_down_sync(all, lane, 2, 16);
  r[5] = static_cast<int>(__ballot_sync(all, lane % 3 == 0));
  r[6] = __any_sync(all, lane == 40);
  r[7] = __all_sync(all, lane < 32);
  r[8] = __reduce_add_sync(all, lane);
  r[9] = __reduce_max_sync(all, -lane);
  r[10] = static_cast<int>(__match_any_sync(all, lane / 4));
  r[11] = __syncthreads_count(lane < 7);
  r[12] = static_cast<int>(__shfl_sync(all, static_cast<double>(lane) * 0.5, 9) * 2);
  r[13] = lane < 16 ? __shfl_sync(0x0000ffffU, lane, 3) : -1;
}

}  // namespace

void tile_product(const Cuda& cuda, const std::uint16_t* a, const std::uint16_t* b, float* c, bool b_transposed) {
  gpu::launch(cuda, tile_product_kernel, dim3(1), dim3(32), 0, a, b, c, b_transposed);
}

void warp_functions(const Cuda& cuda, int* results) {
  gpu::launch(cuda, warp_functions_kernel, dim3(1), dim3(32), 0, results);
}

}  // namespace limbeck::emulation::samples
