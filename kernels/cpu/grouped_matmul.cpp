#include "kernels/grouped_matmul.h"

#include <memory>

#include "kernels/cpu/few_rows.h"
#include "kernels/cpu/gemm.h"

namespace limbeck::kernels {
namespace {

/// f(cpu, e) for every expert. Side by side, each product has one thread: faster than threaded products in turn.
template <class F>
void for_each_expert(const Cpu& cpu, std::int64_t experts, F&& f) {
  for_each_task(cpu, experts, [&, one = Cpu{1, nullptr}](std::int64_t e) { f(one, e); });
}

}  // namespace

template <class D, class T>
void grouped_matmul(const D& cpu, std::int64_t experts, std::int64_t in, std::int64_t out, const std::int64_t* offsets,
                    const T* rows, const T* weight, T beta, T* y) {
  for_each_expert(cpu, experts, [=](const Cpu& one, std::int64_t e) {
    const std::int64_t begin = offsets[e], count = offsets[e + 1] - begin;
    if constexpr (std::is_same_v<T, float>)
      if (count <= most_few_rows<T>)
        return few_rows_product(one, count, out, in, rows + begin * in, weight + e * out * in, beta, y + begin * out);
    gemm(one, Transpose::No, Transpose::Yes, count, out, in, rows + begin * in, in, weight + e * out * in, in, beta,
         y + begin * out, out);
  });
}

template <class D, class T>
void grouped_matmul(const D& cpu, std::int64_t experts, std::int64_t in, std::int64_t out, const std::int64_t* offsets,
                    const T* rows, const bf16* weight, T beta, T* y) {
  for_each_expert(cpu, experts, [=](const Cpu& one, std::int64_t e) {
    const std::int64_t begin = offsets[e], count = offsets[e + 1] - begin;
    if (count == 0) return;
    const auto tile = std::make_unique_for_overwrite<T[]>(static_cast<std::size_t>(widened_tile(out, in)));
    gemm_widened(one, Transpose::No, Transpose::Yes, count, out, in, rows + begin * in, weight + e * out * in, beta,
                 y + begin * out, tile.get());
  });
}

template <class D, class T>
void grouped_matmul_input(const D& cpu, std::int64_t experts, std::int64_t in, std::int64_t out,
                          const std::int64_t* offsets, const T* dy, const bf16* weight, T beta, T* drows) {
  for_each_expert(cpu, experts, [=](const Cpu& one, std::int64_t e) {
    const std::int64_t begin = offsets[e], count = offsets[e + 1] - begin;
    if (count == 0) return;
    const auto tile = std::make_unique_for_overwrite<T[]>(static_cast<std::size_t>(widened_tile(in, out)));
    gemm_widened(one, Transpose::No, Transpose::No, count, in, out, dy + begin * out, weight + e * out * in, beta,
                 drows + begin * in, tile.get());
  });
}

template <class D, class T>
void grouped_matmul_input(const D& cpu, std::int64_t experts, std::int64_t in, std::int64_t out,
                          const std::int64_t* offsets, const T* dy, const T* weight, T beta, T* drows) {
  for_each_expert(cpu, experts, [=](const Cpu& one, std::int64_t e) {
    const std::int64_t begin = offsets[e];
    gemm(one, Transpose::No, Transpose::No, offsets[e + 1] - begin, in, out, dy + begin * out, out,
         weight + e * out * in, in, beta, drows + begin * in, in);
  });
}

template <class D, class T>
void grouped_matmul_weight(const D& cpu, std::int64_t experts, std::int64_t in, std::int64_t out,
                           const std::int64_t* offsets, const T* dy, const T* rows, T beta, T* dweight) {
  for_each_expert(cpu, experts, [=](const Cpu& one, std::int64_t e) {
    const std::int64_t begin = offsets[e];
    gemm(one, Transpose::Yes, Transpose::No, out, in, offsets[e + 1] - begin, dy + begin * out, out, rows + begin * in,
         in, beta, dweight + e * out * in, in);
  });
}

template <class D, class T>
void clear_ungrouped_rows(const D&, std::int64_t experts, const std::int64_t* offsets, std::int64_t num_rows,
                          std::int64_t width, T* y) {
  std::fill_n(y, offsets[0] * width, T(0));
  std::fill(y + offsets[experts] * width, y + num_rows * width, T(0));
}

template void grouped_matmul(const Cpu&, std::int64_t, std::int64_t, std::int64_t, const std::int64_t*, const float*,
                             const bf16*, float, float*);
template void grouped_matmul(const Cpu&, std::int64_t, std::int64_t, std::int64_t, const std::int64_t*, const double*,
                             const bf16*, double, double*);
template void grouped_matmul_input(const Cpu&, std::int64_t, std::int64_t, std::int64_t, const std::int64_t*,
                                   const float*, const bf16*, float, float*);
template void grouped_matmul_input(const Cpu&, std::int64_t, std::int64_t, std::int64_t, const std::int64_t*,
                                   const double*, const bf16*, double, double*);
template void clear_ungrouped_rows(const Cpu&, std::int64_t, const std::int64_t*, std::int64_t, std::int64_t, float*);
template void clear_ungrouped_rows(const Cpu&, std::int64_t, const std::int64_t*, std::int64_t, std::int64_t, double*);
template void clear_ungrouped_rows(const Cpu&, std::int64_t, const std::int64_t*, std::int64_t, std::int64_t, bf16*);
template void grouped_matmul(const Cpu&, std::int64_t, std::int64_t, std::int64_t, const std::int64_t*, const float*,
                             const float*, float, float*);
template void grouped_matmul(const Cpu&, std::int64_t, std::int64_t, std::int64_t, const std::int64_t*, const double*,
                             const double*, double, double*);
template void grouped_matmul_input(const Cpu&, std::int64_t, std::int64_t, std::int64_t, const std::int64_t*,
                                   const float*, const float*, float, float*);
template void grouped_matmul_input(const Cpu&, std::int64_t, std::int64_t, std::int64_t, const std::int64_t*,
                                   const double*, const double*, double, double*);
template void grouped_matmul_weight(const Cpu&, std::int64_t, std::int64_t, std::int64_t, const std::int64_t*,
                                    const float*, const float*, float, float*);
template void grouped_matmul_weight(const Cpu&, std::int64_t, std::int64_t, std::int64_t, const std::int64_t*,
                                    const double*, const double*, double, double*);

}  // namespace limbeck::kernels
