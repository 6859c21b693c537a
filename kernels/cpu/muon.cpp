#include "kernels/muon.h"

#include "kernels/cpu/parallel_for.h"
#include "kernels/cpu/rounded.h"

namespace limbeck::kernels {
namespace {
constexpr std::int64_t grain = 1 << 15;
}

template <class D, class T>
void nesterov(const D& cpu, T momentum, T grad_scale, const T* dx, T* buffer, T* update, std::int64_t n) {
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
      run([=](std::int64_t i) { return grad_scale * dx[i]; });
    else
      run([](std::int64_t) { return T{0}; });
  });
}

template <class D, class T>
void decayed_step(const D& cpu, T decay, T step_size, const T* update, T* x, std::int64_t n, bf16* rounded) {
  parallel_for(cpu, n, grain, [=](std::int64_t begin, std::int64_t end) {
    for_each_stretch(x, rounded, begin, end, [=](std::int64_t first, std::int64_t last) {
#pragma omp simd
      for (std::int64_t i = first; i < last; ++i) x[i] = decay * x[i] - step_size * update[i];
    });
  });
}

template void nesterov(const Cpu&, float, float, const float*, float*, float*, std::int64_t);
template void nesterov(const Cpu&, double, double, const double*, double*, double*, std::int64_t);
template void decayed_step(const Cpu&, float, float, const float*, float*, std::int64_t, bf16*);
template void decayed_step(const Cpu&, double, double, const double*, double*, std::int64_t, bf16*);

}  // namespace limbeck::kernels
