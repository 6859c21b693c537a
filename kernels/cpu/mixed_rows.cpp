#include "kernels/mixed_rows.h"

#include <algorithm>
#include <cmath>
#include <type_traits>

#include "kernels/cpu/parallel_for.h"
#include "kernels/exp.h"

namespace limbeck::kernels {
namespace {

/// log(1 + e), 0 <= e <= 1, as 2 artanh(e / (2 + e)): of floats without a call, so that a loop of it is vector code.
template <class T>
inline T log_of_one_plus(T e) {
  if constexpr (std::is_same_v<T, double>) {
    return std::log1p(e);
  } else {
    const T s = e / (2 + e), q = s * s;
    T series = 0;
    for (int k = 15; k >= 1; k -= 2) series = series * q + T(1) / static_cast<T>(k);
    return 2 * s * series;
  }
}

}  // namespace

template <class D, class T>
void mix_rows(const D& cpu, const LogitsRows<T>& rows, const double* maxima, const double* sums, const double* shares,
              bool is_first, T* mixed) {
  const T temperature = static_cast<T>(rows.temperature), inverse = static_cast<T>(1 / rows.temperature);
  const std::int64_t n = rows.num_valid;
  parallel_for(cpu, rows.n, 1, [=](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      const T* z = rows.student + i * rows.columns;
      T* to = mixed + i * rows.columns;
      if (is_first) std::fill_n(to, n, static_cast<T>(lacking_logit));
      if (rows.targets[i] < 0 || shares[i] == 0) continue;
      const T maximum = static_cast<T>(maxima[i]);
      const T factor = static_cast<T>(std::log(shares[i] / sums[i * num_logits_sums + StudentSumTempered]));
#pragma omp simd
      for (std::int64_t j = 0; j < n; ++j) {
        const T own = (z[j] - maximum) * inverse + factor, before = to[j] * inverse;
        const T high = own > before ? own : before, low = own > before ? before : own;
        to[j] = temperature * (high + log_of_one_plus(exponential(low - high)));
      }
    }
  });
}

template void mix_rows(const Cpu&, const LogitsRows<float>&, const double*, const double*, const double*, bool, float*);
template void mix_rows(const Cpu&, const LogitsRows<double>&, const double*, const double*, const double*, bool,
                       double*);

}  // namespace limbeck::kernels
