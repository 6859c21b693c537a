#include "kernels/topk.h"

#include <algorithm>
#include <cmath>

#include "kernels/cpu/parallel_for.h"

namespace limbeck::kernels {

template <class D, class T>
void topk(const D& cpu, const T* scores, std::int32_t* selection, std::int64_t rows, std::int64_t width,
          std::int64_t count) {
  parallel_for(cpu, rows, 1 + (1 << 13) / (width * count + 1), [=](std::int64_t begin, std::int64_t end) {
    for (std::int64_t t = begin; t < end; ++t) {
      const T* score = scores + t * width;
      std::int32_t* chosen = selection + t * count;
      for (std::int64_t k = 0; k < count; ++k) {
        std::int32_t best = -1;
        for (std::int32_t e = 0; e < width; ++e) {
          if (std::find(chosen, chosen + k, e) != chosen + k) continue;
          if (best < 0 || score[e] > score[best] || (std::isnan(score[best]) && !std::isnan(score[e]))) best = e;
        }
        chosen[k] = best;
      }
    }
  });
}

template void topk(const Cpu&, const float*, std::int32_t*, std::int64_t, std::int64_t, std::int64_t);
template void topk(const Cpu&, const double*, std::int32_t*, std::int64_t, std::int64_t, std::int64_t);

}  // namespace limbeck::kernels
