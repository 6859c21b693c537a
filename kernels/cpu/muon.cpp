#include "kernels/muon.h"

#include <algorithm>
#include <cmath>

#include "kernels/cpu/grad_scale.h"
#include "kernels/cpu/parallel_for.h"
#include "kernels/cpu/rounded.h"
#include "kernels/elementwise.h"

namespace limbeck::kernels {
namespace {
constexpr std::int64_t grain = 1 << 15;
}

template <class D, class T>
void nesterov(const D& cpu, T momentum, const double* grad_scale, const T* dx, T* buffer, T* update, std::int64_t n) {
  if (!is_finite(grad_scale)) return;
  const T scale = scale_of<T>(grad_scale);
  parallel_for(cpu, n, grain, [=](std::int64_t begin, std::int64_t end) {
    const auto run = [=](const auto& gradient) {
#pragma omp simd
      for (std::int64_t i = begin; i < end; ++i) {
        const T g = gradient(i);
        buffer[i] += (1 - momentum) * (g - buffer[i]);
        update[i] = g + momentum * (buffer[i] - g);
      }
    };
    if (dx != nullptr)
      run([=](std::int64_t i) { return scale * dx[i]; });
    else
      run([](std::int64_t) { return T{0}; });
  });
}

template <class D, class T>
void normalise(const D& cpu, const double* squares, double least, T* x, std::int64_t n) {
  scale(cpu, x, static_cast<T>(1 / std::max(std::sqrt(*squares), least)), x, n);
}

template <class D, class T>
void decayed_step(const D& cpu, const DecayedStep<T>* step, const double* grad_scale, const T* update, T* x,
                  std::int64_t n, bf16* rounded) {
  if (!is_finite(grad_scale)) return;
  parallel_for(cpu, n, grain,
               [=, decay = step->decay, step_size = step->step_size](std::int64_t begin, std::int64_t end) {
                 for_each_stretch(x, rounded, begin, end, [=](std::int64_t first, std::int64_t last) {
#pragma omp simd
                   for (std::int64_t i = first; i < last; ++i) x[i] = decay * x[i] - step_size * update[i];
                 });
               });
}

template void nesterov(const Cpu&, float, const double*, const float*, float*, float*, std::int64_t);
template void nesterov(const Cpu&, double, const double*, const double*, double*, double*, std::int64_t);
template void normalise(const Cpu&, const double*, double, float*, std::int64_t);
template void normalise(const Cpu&, const double*, double, double*, std::int64_t);
template void decayed_step(const Cpu&, const DecayedStep<float>*, const double*, const float*, float*, std::int64_t,
                           bf16*);
template void decayed_step(const Cpu&, const DecayedStep<double>*, const double*, const double*, double*, std::int64_t,
                           bf16*);

}  // namespace limbeck::kernels
