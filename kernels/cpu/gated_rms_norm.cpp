#include "kernels/gated_rms_norm.h"

#include <algorithm>
#include <vector>

#include "kernels/cpu/activations.h"
#include "kernels/cpu/column_sums.h"
#include "kernels/cpu/parallel_for.h"
#include "kernels/cpu/rms_norm_row.h"

namespace limbeck::kernels {
namespace {

using Gate = GatedBy<SiluActivation>;

/// g [n] = y silu(z).
template <class T>
void gate_row(const T* y, const T* z, Acc<T>* g, std::int64_t n) {
  using A = Acc<T>;
#pragma omp simd
  for (std::int64_t c = 0; c < n; ++c) g[c] = Gate().value(as<A>(z[c]), as<A>(y[c]));
}

/// f(at, group, g) for each row of a group, which begins at value `at`: g [width] is the thread's own.
template <class A, class F>
void for_each_row(const Cpu& cpu, std::int64_t rows, std::int64_t groups, std::int64_t width, F&& f) {
  parallel_for(cpu, rows * groups, rms_norm_grain(width), [&](std::int64_t begin, std::int64_t end) {
    std::vector<A> g(static_cast<std::size_t>(2 * width));
    for (std::int64_t i = begin; i < end; ++i) f(i, i % groups, g.data());
  });
}

}  // namespace

template <class D, class T>
void gated_rms_norm(const D& cpu, const T* y, const T* z, const Acc<T>* weight, T* u, Acc<T>* inverse_rms,
                    std::int64_t rows, std::int64_t groups, std::int64_t width, double eps) {
  for_each_row<Acc<T>>(cpu, rows, groups, width, [=](std::int64_t i, std::int64_t group, Acc<T>* g) {
    gate_row(y + i * width, z + i * width, g, width);
    inverse_rms[i] = inverse_rms_of_row(g, width, eps);
    normalise_row(g, inverse_rms[i], weight + group * width, u + i * width, width);
  });
}

template <class D, class T>
void gated_rms_norm_input_gradient(const D& cpu, const T* y, const T* z, const Acc<T>* weight,
                                   const Acc<T>* inverse_rms, const T* du, T* dy, T* dz, std::int64_t rows,
                                   std::int64_t groups, std::int64_t width) {
  using A = Acc<T>;
  for_each_row<A>(cpu, rows, groups, width, [=](std::int64_t i, std::int64_t group, A* g) {
    A* const dg = g + width;
    const std::int64_t at = i * width;
    gate_row(y + at, z + at, g, width);
    rms_norm_row_gradient(g, weight + group * width, inverse_rms[i], du + at, false, dg, width);
#pragma omp simd
    for (std::int64_t c = 0; c < width; ++c) {
      const GatedGradient<A> d = Gate().gradient(as<A>(z[at + c]), as<A>(y[at + c]), dg[c]);
      dy[at + c] = as<T>(d.of_u);
      dz[at + c] = as<T>(d.of_x);
    }
  });
}

template <class D, class T>
void gated_rms_norm_weight_gradient(const D& cpu, const T* y, const T* z, const Acc<T>* inverse_rms, const T* du,
                                    bool add, Acc<T>* dweight, std::int64_t rows, std::int64_t groups,
                                    std::int64_t width) {
  using A = Acc<T>;
  const std::int64_t channels = groups * width;
  sum_columns(cpu, rows, channels, add, dweight, [=](std::int64_t t, std::int64_t first, std::int64_t n, A* part) {
    for (std::int64_t c = 0; c < n;) {  // group by group
      const std::int64_t group = (first + c) / width, end = std::min(n, (group + 1) * width - first);
      const A r = inverse_rms[t * groups + group];
#pragma omp simd
      for (std::int64_t i = c; i < end; ++i) {
        const std::int64_t at = t * channels + first + i;
        part[i] += as<A>(du[at]) * Gate().value(as<A>(z[at]), as<A>(y[at])) * r;
      }
      c = end;
    }
  });
}

#define LIMBECK_INSTANTIATE(T)                                                                                         \
  template void gated_rms_norm(const Cpu&, const T*, const T*, const Acc<T>*, T*, Acc<T>*, std::int64_t, std::int64_t, \
                               std::int64_t, double);                                                                  \
  template void gated_rms_norm_input_gradient(const Cpu&, const T*, const T*, const Acc<T>*, const Acc<T>*, const T*,  \
                                              T*, T*, std::int64_t, std::int64_t, std::int64_t);                       \
  template void gated_rms_norm_weight_gradient(const Cpu&, const T*, const T*, const Acc<T>*, const T*, bool, Acc<T>*, \
                                               std::int64_t, std::int64_t, std::int64_t);
LIMBECK_INSTANTIATE(float)
LIMBECK_INSTANTIATE(double)
LIMBECK_INSTANTIATE(bf16)

}  // namespace limbeck::kernels
