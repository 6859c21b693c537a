#include "kernels/reward.h"

#include "kernels/cpu/parallel_for.h"

namespace limbeck::kernels {

template <class D, class X>
void response_rewards(const D& cpu, const X* x, const Acc<X>* weight, const std::int32_t* document,
                      const std::int64_t* offsets, std::int64_t* last, double* rewards, std::int64_t n,
                      std::int64_t width) {
  parallel_for(cpu, 2 * n, 1, [=](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      std::int64_t t = offsets[i / 2 + 1] - 1;
      while (t >= offsets[i / 2] && document[t] != i % 2) --t;
      last[i] = t >= offsets[i / 2] ? t : -1;
      double sum = 0;
      if (last[i] >= 0)
#pragma omp simd reduction(+ : sum)
        for (std::int64_t c = 0; c < width; ++c) sum += as<double>(x[t * width + c]) * as<double>(weight[c]);
      rewards[i] = sum;
    }
  });
}

template <class D>
void reward_pairs(const D& cpu, const double* rewards, std::int64_t n, double center, const double* scale,
                  double* losses, double* slopes, double* of_pairs) {
  parallel_for(cpu, n, 1 << 10, [=](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      double* row = of_pairs + i * num_preference_columns;
      reward_row(rewards[2 * i], rewards[2 * i + 1], center, *scale, slopes + 2 * i, row);
      losses[i] = *scale * row[PreferenceLoss];
    }
  });
}

template <class D, class X>
void reward_input_gradient(const D& cpu, const Acc<X>* weight, const std::int64_t* last, const double* slopes,
                           const Acc<X>* dloss, X* dx, std::int64_t n, std::int64_t width) {
  parallel_for(cpu, 2 * n, 1, [=](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      if (last[i] < 0) continue;
      const double factor = slopes[i] * as<double>(*dloss);
      X* row = dx + last[i] * width;
#pragma omp simd
      for (std::int64_t c = 0; c < width; ++c) row[c] = as<X>(static_cast<Acc<X>>(factor * as<double>(weight[c])));
    }
  });
}

template <class D, class X>
void reward_weight_gradient(const D& cpu, const X* x, const std::int64_t* last, const double* slopes,
                            const Acc<X>* dloss, bool add, Acc<X>* dweight, std::int64_t n, std::int64_t width) {
  parallel_for(cpu, width, 1 << 8, [=](std::int64_t begin, std::int64_t end) {
    for (std::int64_t c = begin; c < end; ++c) {
      double sum = 0;
      for (std::int64_t i = 0; i < 2 * n; ++i)
        if (last[i] >= 0) sum += slopes[i] * as<double>(x[last[i] * width + c]);
      sum *= as<double>(*dloss);
      dweight[c] = static_cast<Acc<X>>(add ? as<double>(dweight[c]) + sum : sum);
    }
  });
}

template void reward_pairs(const Cpu&, const double*, std::int64_t, double, const double*, double*, double*, double*);
#define LIMBECK_INSTANTIATE(X)                                                                                        \
  template void response_rewards(const Cpu&, const X*, const Acc<X>*, const std::int32_t*, const std::int64_t*,       \
                                 std::int64_t*, double*, std::int64_t, std::int64_t);                                 \
  template void reward_input_gradient(const Cpu&, const Acc<X>*, const std::int64_t*, const double*, const Acc<X>*,   \
                                      X*, std::int64_t, std::int64_t);                                                \
  template void reward_weight_gradient(const Cpu&, const X*, const std::int64_t*, const double*, const Acc<X>*, bool, \
                                       Acc<X>*, std::int64_t, std::int64_t);
LIMBECK_INSTANTIATE(float)
LIMBECK_INSTANTIATE(double)
LIMBECK_INSTANTIATE(bf16)

}  // namespace limbeck::kernels
