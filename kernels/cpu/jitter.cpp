#include "kernels/jitter.h"

#include "kernels/cpu/parallel_for.h"

namespace limbeck::kernels {

template <class T>
void jitter(const Cpu& cpu, const T* x, const std::int64_t* global_index, T* y, std::int64_t tokens, std::int64_t width,
            double epsilon, const PhiloxStream& stream) {
  parallel_for(cpu, tokens, 1 + 2048 / (width + 1), [=](std::int64_t begin, std::int64_t end) {
    for (std::int64_t t = begin; t < end; ++t)
      for (std::int64_t c = 0; c < width; ++c) {
        const double u = stream.uniform(static_cast<std::uint64_t>(global_index[t] * width + c));
        y[t * width + c] = x[t * width + c] * static_cast<T>(1 + epsilon * (2 * u - 1));
      }
  });
}

template void jitter(const Cpu&, const float*, const std::int64_t*, float*, std::int64_t, std::int64_t, double,
                     const PhiloxStream&);
template void jitter(const Cpu&, const double*, const std::int64_t*, double*, std::int64_t, std::int64_t, double,
                     const PhiloxStream&);

}  // namespace limbeck::kernels
