#include "kernels/swiglu.h"

#include "kernels/cpu/parallel_for.h"
#include "kernels/exp.h"

namespace limbeck::kernels {
namespace {

constexpr std::int64_t grain = 1 << 12;

template <class T>
T sigmoid(T x) {
  return 1 / (1 + exponential(-x));
}

}  // namespace

template <class T>
void swiglu(const Cpu& cpu, const T* gate, const T* up, T* y, std::int64_t n) {
  parallel_for(cpu, n, grain, [=](std::int64_t begin, std::int64_t end) {
#pragma omp simd
    for (std::int64_t i = begin; i < end; ++i) y[i] = gate[i] * sigmoid(gate[i]) * up[i];
  });
}

template <class T>
void swiglu_gradient(const Cpu& cpu, const T* gate, const T* up, const T* dy, T* dgate, T* dup, std::int64_t n) {
  parallel_for(cpu, n, grain, [=](std::int64_t begin, std::int64_t end) {
#pragma omp simd
    for (std::int64_t i = begin; i < end; ++i) {
      const T s = sigmoid(gate[i]);
      const T ds = dy[i] * s;
      dup[i] = ds * gate[i];
      dgate[i] = ds * up[i] * (1 + gate[i] * (1 - s));
    }
  });
}

template void swiglu(const Cpu&, const float*, const float*, float*, std::int64_t);
template void swiglu(const Cpu&, const double*, const double*, double*, std::int64_t);
template void swiglu_gradient(const Cpu&, const float*, const float*, const float*, float*, float*, std::int64_t);
template void swiglu_gradient(const Cpu&, const double*, const double*, const double*, double*, double*, std::int64_t);

}  // namespace limbeck::kernels
