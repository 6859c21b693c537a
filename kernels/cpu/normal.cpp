#include "kernels/normal.h"

#include "kernels/cpu/parallel_for.h"

namespace limbeck::kernels {

template <class D, class T>
void normal_rows(const D& cpu, const PhiloxStream& stream, double deviation, const std::int64_t* row_index, T* y,
                 std::int64_t rows, std::int64_t width) {
  parallel_for(cpu, rows, 1 + 512 / (width + 1), [=](std::int64_t begin, std::int64_t end) {
    for (std::int64_t r = begin; r < end; ++r)
      for (std::int64_t c = 0; c < width; ++c)
        y[r * width + c] = static_cast<T>(deviation * stream.normal(static_cast<std::uint64_t>(row_index[r] + c)));
  });
}

template void normal_rows(const Cpu&, const PhiloxStream&, double, const std::int64_t*, float*, std::int64_t,
                          std::int64_t);
template void normal_rows(const Cpu&, const PhiloxStream&, double, const std::int64_t*, double*, std::int64_t,
                          std::int64_t);

}  // namespace limbeck::kernels
