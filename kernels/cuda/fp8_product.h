// The products of kernels/fp8.h on a GPU: cuBLASLt's, which a Hopper has, and a plain one for the others.
//
//     if (is_for_library(cuda, m, n, k)) fp8_library_product(cuda, m, n, k, a, b, beta, c);
#pragma once

#include <cstdint>

#include "kernels/cuda/cuda.h"
#include "kernels/fp8.h"

namespace limbeck::kernels {

/// The library takes blocks of 128 on compute capability 9.0 alone, rows of whole 16 bytes, and scales of a multiple of
/// 4 rows; what a layer has is a multiple of 16 in all three.
bool is_for_library(const Cuda& cuda, std::int64_t m, std::int64_t n, std::int64_t k);

/// Arguments as fp8_matmul's, none of the extents 0. Sums are the tensor cores' of a block, added in float32.
template <class C>
void fp8_library_product(const Cuda& cuda, std::int64_t m, std::int64_t n, std::int64_t k, const Fp8Factor& a,
                         const Fp8Factor& b, float beta, C* c);

/// Of any extents: factors are widened to float32 by tiles, and terms added in their order.
template <class C>
void fp8_plain_product(const Cuda& cuda, std::int64_t m, std::int64_t n, std::int64_t k, const Fp8Factor& a,
                       const Fp8Factor& b, float beta, C* c);

}  // namespace limbeck::kernels
