#include "kernels/topk.h"

#include "kernels/cuda/warp_rows.cuh"

namespace limbeck::kernels {
namespace {

/// A column and its score; none: column -1.
template <class T>
struct Scored {
  T score;
  std::int32_t column;
};

/// Whether a comes before b by falling score, NaN last, then by column.
template <class T>
__device__ bool comes_before(const Scored<T>& a, const Scored<T>& b) {
  const bool a_is_nan = a.score != a.score, b_is_nan = b.score != b.score;
  if (a_is_nan != b_is_nan) return b_is_nan;
  if (!a_is_nan && a.score != b.score) return a.score > b.score;
  return a.column < b.column;
}

template <class T>
__device__ Scored<T> earlier(const Scored<T>& a, const Scored<T>& b) {
  if (a.column < 0 || b.column < 0) return a.column < 0 ? b : a;
  return comes_before(b, a) ? b : a;
}

// Each choice is the first column behind the last choice in that order.
template <class T>
struct TopK {
  const T* scores;
  std::int32_t* selection;
  int width, count;
  __device__ void run(std::int64_t t, int lane) const {
    const T* score = scores + t * width;
    Scored<T> last{T{0}, -1};
    for (int k = 0; k < count; ++k) {
      Scored<T> best{T{0}, -1};
      for (std::int32_t e = lane; e < width; e += warp_size) {
        const Scored<T> candidate{score[e], e};
        if (last.column < 0 || comes_before(last, candidate)) best = earlier(best, candidate);
      }
      for (int distance = 16; distance > 0; distance /= 2)
        best = earlier(best, Scored<T>{__shfl_xor_sync(full_warp, best.score, distance),
                                       __shfl_xor_sync(full_warp, best.column, distance)});
      if (lane == 0) selection[t * count + k] = best.column;
      last = best;
    }
  }
};

}  // namespace

template <class D, class T>
void topk(const D& cuda, const T* scores, std::int32_t* selection, std::int64_t rows, std::int64_t width,
          std::int64_t count) {
  for_each_row(cuda, rows, TopK<T>{scores, selection, static_cast<int>(width), static_cast<int>(count)});
}

template void topk(const Cuda&, const float*, std::int32_t*, std::int64_t, std::int64_t, std::int64_t);
template void topk(const Cuda&, const double*, std::int32_t*, std::int64_t, std::int64_t, std::int64_t);

}  // namespace limbeck::kernels
