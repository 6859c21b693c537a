#include "kernels/dropout.h"

#include "kernels/cpu/parallel_for.h"

namespace limbeck::kernels {

template <class D, class T>
void dropout(const D& cpu, const T* x, const std::int64_t* global_index, T* y, std::int64_t rows, std::int64_t width,
             double probability, const PhiloxStream& stream) {
  const auto scale = static_cast<Acc<T>>(1 / (1 - probability));
  parallel_for(cpu, rows, 1 + 2048 / (width + 1), [=](std::int64_t begin, std::int64_t end) {
    for (std::int64_t t = begin; t < end; ++t)
      for (std::int64_t c = 0; c < width; ++c) {
        const double u = stream.uniform(static_cast<std::uint64_t>(global_index[t] * width + c));
        y[t * width + c] = u >= probability ? as<T>(scale * as<Acc<T>>(x[t * width + c])) : T{};
      }
  });
}

#define LIMBECK_INSTANTIATE(T)                                                                             \
  template void dropout(const Cpu&, const T*, const std::int64_t*, T*, std::int64_t, std::int64_t, double, \
                        const PhiloxStream&);
LIMBECK_INSTANTIATE(float)
LIMBECK_INSTANTIATE(double)
LIMBECK_INSTANTIATE(bf16)

}  // namespace limbeck::kernels
