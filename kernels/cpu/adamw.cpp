#include "kernels/adamw.h"

#include <cmath>

#include "kernels/cpu/block8.h"
#include "kernels/cpu/grad_scale.h"
#include "kernels/cpu/parallel_for.h"
#include "kernels/cpu/rounded.h"

namespace limbeck::kernels {
namespace {
constexpr std::int64_t grain = 1 << 15;
constexpr std::int64_t block_grain = 64;

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

template <class D, class T>
void adamw(const D& cpu, const AdamWFactors<T>* factors, const double* grad_scale, const T* dx, T* x, T* mean,
           T* mean_square, std::int64_t n, bf16* rounded) {
  if (!is_finite(grad_scale)) return;
  const T scale = scale_of<T>(grad_scale);
  parallel_for(cpu, n, grain, [=, f = *factors](std::int64_t begin, std::int64_t end) {
    for_each_stretch(x, rounded, begin, end, [=](std::int64_t first, std::int64_t last) {
      if (dx != nullptr)
        update(
            f, [=](std::int64_t i) { return scale * dx[i]; }, x, mean, mean_square, first, last);
      else
        update(
            f, [](std::int64_t) { return T{0}; }, x, mean, mean_square, first, last);
    });
  });
}

template <class D>
void adamw_block8(const D& cpu, const AdamWFactors<float>* factors, const double* grad_scale, const float* dx, float* x,
                  Block8 mean, Block8 mean_square, std::int64_t n, bf16* rounded) {
  if (!is_finite(grad_scale)) return;
  const auto scale = scale_of<float>(grad_scale);
  const Block8Table& signs = block8_table(Block8Map::Signed);
  const Block8Table& squares = block8_table(Block8Map::Unsigned);
  parallel_for(
      cpu, block8_count(n), block_grain, [=, &signs, &squares, f = *factors](std::int64_t begin, std::int64_t end) {
        std::array<float, block8_size> m, v;
        for (std::int64_t b = begin; b < end; ++b) {
          const std::int64_t first = b * block8_size;
          const std::int64_t count = std::min(block8_size, n - first);
          decode_block(signs, mean.codes + first, mean.scales[b], count, m.data());
          decode_block(squares, mean_square.codes + first, mean_square.scales[b], count, v.data());
          if (dx != nullptr)
            update(
                f, [=](std::int64_t i) { return scale * dx[first + i]; }, x + first, m.data(), v.data(), 0, count);
          else
            update(
                f, [](std::int64_t) { return 0.F; }, x + first, m.data(), v.data(), 0, count);
          write_rounded(x, rounded, first, first + count);
          encode_block(signs, m.data(), count, mean.codes + first, mean.scales[b]);
          encode_block(squares, v.data(), count, mean_square.codes + first, mean_square.scales[b]);
        }
      });
}

template void adamw(const Cpu&, const AdamWFactors<float>*, const double*, const float*, float*, float*, float*,
                    std::int64_t, bf16*);
template void adamw(const Cpu&, const AdamWFactors<double>*, const double*, const double*, double*, double*, double*,
                    std::int64_t, bf16*);
template void adamw_block8(const Cpu&, const AdamWFactors<float>*, const double*, const float*, float*, Block8, Block8,
                           std::int64_t, bf16*);

}  // namespace limbeck::kernels
