#include "kernels/cuda/elementwise.cuh"
#include "kernels/grouped_matmul.h"

namespace limbeck::kernels {
namespace {

/// A block clears whole rows of those that lie outside [offsets[0], offsets[experts]).
template <class T, bool Whole>
__global__ void __launch_bounds__(most_row_threads)
    clear_kernel(std::int64_t experts, const std::int64_t* offsets, std::int64_t num_rows, int width, T* y) {
  constexpr int N = vector_length<T>;
  const std::int64_t begin = offsets[0], grouped = offsets[experts] - begin;
  for (std::int64_t r = blockIdx.x; r < num_rows - grouped; r += gridDim.x) {
    T* row = y + (r < begin ? r : r + grouped) * width;
    for (int c = static_cast<int>(threadIdx.x) * N; c < width; c += static_cast<int>(blockDim.x) * N)
      store<Whole>(row + c, Values<Acc<T>, N>{}, width - c);
  }
}

}  // namespace

template <class D, class T>
void clear_ungrouped_rows(const D& cuda, std::int64_t experts, const std::int64_t* offsets, std::int64_t num_rows,
                          std::int64_t width, T* y) {
  constexpr int N = vector_length<T>;
  if (num_rows == 0 || width == 0) return;
  const bool whole = are_rows_aligned<N>(width, y);
  gpu::launch(cuda, whole ? clear_kernel<T, true> : clear_kernel<T, false>, blocks_for(cuda, num_rows),
              threads_for_row(ceil_div(width, N)), 0, experts, offsets, num_rows, static_cast<int>(width), y);
}

template void clear_ungrouped_rows(const Cuda&, std::int64_t, const std::int64_t*, std::int64_t, std::int64_t, float*);
template void clear_ungrouped_rows(const Cuda&, std::int64_t, const std::int64_t*, std::int64_t, std::int64_t, double*);
template void clear_ungrouped_rows(const Cuda&, std::int64_t, const std::int64_t*, std::int64_t, std::int64_t, bf16*);

}  // namespace limbeck::kernels
