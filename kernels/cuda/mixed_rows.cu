#include "kernels/mixed_rows.h"

#include <cmath>

#include "kernels/cuda/warp_rows.cuh"

namespace limbeck::kernels {
namespace {

template <class T>
struct MixedRow {
  LogitsRows<T> rows;
  const double* maxima;
  const double* sums;
  const double* shares;
  bool is_first;
  T* mixed;
  __device__ void run(std::int64_t i, int lane) const {
    const T* z = rows.student + i * rows.columns;
    T* to = mixed + i * rows.columns;
    const bool has_share = rows.targets[i] >= 0 && shares[i] > 0;
    if (!has_share && !is_first) return;
    const T temperature = static_cast<T>(rows.temperature), inverse = static_cast<T>(1 / rows.temperature);
    const T maximum = static_cast<T>(maxima[i]);
    const T factor =
        has_share ? static_cast<T>(std::log(shares[i] / sums[i * num_logits_sums + StudentSumTempered])) : T(0);
    for (std::int64_t j = lane; j < rows.num_valid; j += warp_size) {
      const T old = is_first ? static_cast<T>(lacking_logit) : to[j];
      const T own = (z[j] - maximum) * inverse + factor, before = old * inverse;
      const T high = own > before ? own : before, low = own > before ? before : own;
      to[j] = has_share ? temperature * (high + std::log1p(std::exp(low - high))) : old;
    }
  }
};

}  // namespace

template <class D, class T>
void mix_rows(const D& cuda, const LogitsRows<T>& rows, const double* maxima, const double* sums, const double* shares,
              bool is_first, T* mixed) {
  for_each_row(cuda, rows.n, MixedRow<T>{rows, maxima, sums, shares, is_first, mixed});
}

template void mix_rows(const Cuda&, const LogitsRows<float>&, const double*, const double*, const double*, bool,
                       float*);
template void mix_rows(const Cuda&, const LogitsRows<double>&, const double*, const double*, const double*, bool,
                       double*);

}  // namespace limbeck::kernels
