// Work on rows, a warp to a row: for rows of some hundred values, such as a token's scores of the experts.
//
//     struct Sum {
//       const float* x;
//       float* y;
//       int width;
//       __device__ void run(std::int64_t row, int lane) const;
//     };
//     for_each_row(cuda, rows, Sum{x, y, width});
#pragma once

#include <cstdint>

#include "kernels/cuda/grid.h"
#include "kernels/cuda/reduce.cuh"

namespace limbeck::kernels {

template <class F>
__global__ void warp_rows_kernel(F f, std::int64_t rows) {
  const std::int64_t warps = blockDim.x / warp_size;
  for (std::int64_t row = blockIdx.x * warps + threadIdx.x / warp_size; row < rows; row += gridDim.x * warps)
    f.run(row, static_cast<int>(threadIdx.x % warp_size));
}

template <class F>
void for_each_row(const Cuda& cuda, std::int64_t rows, const F& f) {
  if (rows == 0) return;
  gpu::launch(cuda, warp_rows_kernel<F>, blocks_for(cuda, ceil_div(rows, usual_threads / warp_size)),
              dim3(usual_threads), 0, f, rows);
}

}  // namespace limbeck::kernels
