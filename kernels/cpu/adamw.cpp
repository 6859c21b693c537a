#include "kernels/adamw.h"

#include <cmath>

#include "kernels/cpu/parallel_for.h"

namespace limbeck::kernels {
namespace {
constexpr std::int64_t grain = 1 << 15;

template <class T, class Gradient>
void update(const AdamWFactors<T>& f, const Gradient& gradient, T* x, T* mean, T* mean_square, std::int64_t begin,
            std::int64_t end) {
#pragma omp simd
  for (std::int64_t i = begin; i < end; ++i) {
    const T g = gradient(i);
    const T m = mean[i] + f.one_minus_beta1 * (g - mean[i]);
    const T v = f.beta2 * mean_square[i] + f.one_minus_beta2 * (g * g);
    mean[i] = m;
    mean_square[i] = v;
    x[i] = f.decay * x[i] - f.step_size * (m / (std::sqrt(v) * f.inverse_root_correction2 + f.eps));
  }
}
}  // namespace

template <class T>
void adamw(const Cpu& cpu, const AdamWFactors<T>& factors, const T* dx, T* x, T* mean, T* mean_square, std::int64_t n) {
  parallel_for(cpu, n, grain, [=, f = factors](std::int64_t begin, std::int64_t end) {
    if (dx != nullptr)
      update(
          f, [=](std::int64_t i) { return f.grad_scale * dx[i]; }, x, mean, mean_square, begin, end);
    else
      update(
          f, [](std::int64_t) { return T{0}; }, x, mean, mean_square, begin, end);
  });
}

template void adamw(const Cpu&, const AdamWFactors<float>&, const float*, float*, float*, float*, std::int64_t);
template void adamw(const Cpu&, const AdamWFactors<double>&, const double*, double*, double*, double*, std::int64_t);

}  // namespace limbeck::kernels
