#include "kernels/index_check.h"

#include "kernels/cuda/grid.h"
#include "kernels/cuda/reduce.cuh"

namespace limbeck::kernels {
namespace {

constexpr std::int64_t stretch = 16 * usual_threads;  // of a block

struct Smaller {
  template <class T>
  __device__ T operator()(T a, T b) const {
    return b < a ? b : a;
  }
};

/// The first position in [begin, end) whose index is outside, or end. For the whole block.
template <class I>
__device__ std::int64_t first_in(const I* index, std::int64_t begin, std::int64_t end, std::int64_t first,
                                 std::int64_t limit) {
  std::int64_t bad = end;
  for (std::int64_t i = begin + threadIdx.x; i < end && bad == end; i += blockDim.x)
    if (index[i] < first || index[i] >= limit) bad = i;
  return block_reduce(bad, end, Smaller{});
}

// Only the block that has the first of all writes.
template <class I>
__global__ void note_kernel(const I* index, std::int64_t n, std::int64_t first, std::int64_t limit, std::int64_t check,
                            NotedIndex* noted) {
  const std::int64_t begin = blockIdx.x * stretch, end = begin + stretch < n ? begin + stretch : n;
  const std::int64_t bad = first_in(index, begin, end, first, limit);
  if (bad == end || first_in(index, 0, begin, first, limit) < begin) return;
  if (threadIdx.x == 0 && noted->check < 0) *noted = {check, bad, static_cast<std::int64_t>(index[bad])};
}

}  // namespace

template <class D, class I>
void note_outside(const D& cuda, const I* index, std::int64_t n, std::int64_t first, std::int64_t limit,
                  std::int64_t check, NotedIndex* noted) {
  if (n > 0)
    gpu::launch(cuda, note_kernel<I>, dim3(static_cast<unsigned>(ceil_div(n, stretch))), dim3(usual_threads), 0, index,
                n, first, limit, check, noted);
}

template void note_outside(const Cuda&, const std::int32_t*, std::int64_t, std::int64_t, std::int64_t, std::int64_t,
                           NotedIndex*);
template void note_outside(const Cuda&, const std::int64_t*, std::int64_t, std::int64_t, std::int64_t, std::int64_t,
                           NotedIndex*);

}  // namespace limbeck::kernels
