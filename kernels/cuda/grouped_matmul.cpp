#include "kernels/grouped_matmul.h"

#include "kernels/cuda/grouped_product.h"

namespace limbeck::kernels {

template <class D, class T>
void grouped_matmul(const D& cuda, std::int64_t experts, std::int64_t in, std::int64_t out, const std::int64_t* offsets,
                    const T* rows, const T* weight, T beta, T* y) {
  grouped_product(cuda, {experts, out, in, Transpose::Yes}, offsets, rows, weight, static_cast<double>(beta), y);
}

template <class D, class T>
void grouped_matmul(const D& cuda, std::int64_t experts, std::int64_t in, std::int64_t out, const std::int64_t* offsets,
                    const T* rows, const bf16* weight, T beta, T* y) {
  grouped_product(cuda, {experts, out, in, Transpose::Yes}, offsets, rows, weight, static_cast<double>(beta), y);
}

template <class D, class T>
void grouped_matmul_input(const D& cuda, std::int64_t experts, std::int64_t in, std::int64_t out,
                          const std::int64_t* offsets, const T* dy, const T* weight, T beta, T* drows) {
  grouped_product(cuda, {experts, in, out, Transpose::No}, offsets, dy, weight, static_cast<double>(beta), drows);
}

template <class D, class T>
void grouped_matmul_input(const D& cuda, std::int64_t experts, std::int64_t in, std::int64_t out,
                          const std::int64_t* offsets, const T* dy, const bf16* weight, T beta, T* drows) {
  grouped_product(cuda, {experts, in, out, Transpose::No}, offsets, dy, weight, static_cast<double>(beta), drows);
}

template <class D, class T>
void grouped_matmul_weight(const D& cuda, std::int64_t experts, std::int64_t in, std::int64_t out,
                           const std::int64_t* offsets, const T* dy, const T* rows, T beta, T* dweight) {
  grouped_product_of_terms(cuda, experts, out, in, offsets, dy, rows, static_cast<double>(beta), dweight);
}

template <class D>
void grouped_matmul_weight(const D& cuda, std::int64_t experts, std::int64_t in, std::int64_t out,
                           const std::int64_t* offsets, const bf16* dy, const bf16* rows, float beta, float* dweight) {
  grouped_product_of_terms(cuda, experts, out, in, offsets, dy, rows, static_cast<double>(beta), dweight);
}

#define LIMBECK_INSTANTIATE(T)                                                                                       \
  template void grouped_matmul(const Cuda&, std::int64_t, std::int64_t, std::int64_t, const std::int64_t*, const T*, \
                               const T*, T, T*);                                                                     \
  template void grouped_matmul(const Cuda&, std::int64_t, std::int64_t, std::int64_t, const std::int64_t*, const T*, \
                               const bf16*, T, T*);                                                                  \
  template void grouped_matmul_input(const Cuda&, std::int64_t, std::int64_t, std::int64_t, const std::int64_t*,     \
                                     const T*, const T*, T, T*);                                                     \
  template void grouped_matmul_input(const Cuda&, std::int64_t, std::int64_t, std::int64_t, const std::int64_t*,     \
                                     const T*, const bf16*, T, T*);                                                  \
  template void grouped_matmul_weight(const Cuda&, std::int64_t, std::int64_t, std::int64_t, const std::int64_t*,    \
                                      const T*, const T*, T, T*);
LIMBECK_INSTANTIATE(float)
LIMBECK_INSTANTIATE(double)
template void grouped_matmul_weight(const Cuda&, std::int64_t, std::int64_t, std::int64_t, const std::int64_t*,
                                    const bf16*, const bf16*, float, float*);

}  // namespace limbeck::kernels
