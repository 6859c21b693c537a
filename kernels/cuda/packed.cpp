// Nothing is packed on a GPU, which reads a factor as it lies: bfloat16 in its own order, or blocks.
#include "kernels/packed.h"

#include <stdexcept>

#include "kernels/cuda/blas.h"
#include "kernels/cuda/grouped_product.h"

namespace limbeck::kernels {
namespace {

const bf16* narrow_of(const RightFactor& b) {
  if (b.narrow == nullptr) throw std::logic_error("matmul: a factor on a GPU is not in bfloat16 as it lies");
  return b.narrow;
}

}  // namespace

template <class D, class C>
void packed_matmul(const D& cuda, std::int64_t m, std::int64_t n, std::int64_t k, const bf16* a, const RightFactor& b,
                   float beta, C* c) {
  blas_product(cuda, {Transpose::No, b.transpose, m, n, k}, a, narrow_of(b), static_cast<double>(beta), c, n);
}

template <class D, class C>
void packed_grouped_matmul(const D& cuda, std::int64_t groups, std::int64_t n, std::int64_t k,
                           const std::int64_t* offsets, const bf16* rows, const RightFactor& b, float beta, C* y) {
  grouped_product(cuda, {groups, n, k, b.transpose}, offsets, rows, narrow_of(b), static_cast<double>(beta), y);
}

template void packed_matmul(const Cuda&, std::int64_t, std::int64_t, std::int64_t, const bf16*, const RightFactor&,
                            float, float*);
template void packed_matmul(const Cuda&, std::int64_t, std::int64_t, std::int64_t, const bf16*, const RightFactor&,
                            float, bf16*);
template void packed_grouped_matmul(const Cuda&, std::int64_t, std::int64_t, std::int64_t, const std::int64_t*,
                                    const bf16*, const RightFactor&, float, bf16*);

}  // namespace limbeck::kernels
