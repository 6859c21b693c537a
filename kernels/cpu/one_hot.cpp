#include "kernels/one_hot.h"

#include <algorithm>

#include "kernels/cpu/parallel_for.h"

namespace limbeck::kernels {

template <class D, class T>
void one_hot(const D& cpu, const std::int32_t* index, T value, T* y, std::int64_t rows, std::int64_t columns,
             std::int64_t first) {
  parallel_for(cpu, rows, 1 + (1 << 16) / (columns + 1), [=](std::int64_t begin, std::int64_t end) {
    std::fill(y + begin * columns, y + end * columns, T(0));
    for (std::int64_t t = begin; t < end; ++t) {
      const std::int64_t c = index[t] - first;
      if (c >= 0 && c < columns) y[t * columns + c] = value;
    }
  });
}

template void one_hot(const Cpu&, const std::int32_t*, float, float*, std::int64_t, std::int64_t, std::int64_t);
template void one_hot(const Cpu&, const std::int32_t*, double, double*, std::int64_t, std::int64_t, std::int64_t);

}  // namespace limbeck::kernels
