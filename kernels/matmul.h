// Matrix products of row-major matrices: C = op(A) op(B) + beta C. A linear layer with weight [out,in] is
//
//     matmul(cpu, Transpose::No, Transpose::Yes, rows, out, in, x, weight, 0.F, y);     // y  = x W^T
//     matmul(cpu, Transpose::No, Transpose::No, rows, in, out, dy, weight, 0.F, dx);    // dx = dy W
//     matmul(cpu, Transpose::Yes, Transpose::No, out, in, rows, dy, x, 1.F, dweight);   // dW += dy^T x
#pragma once

#include <cstdint>

#include "device_set.h"
#include "kernels/bf16.h"

namespace limbeck::kernels {

enum class Transpose : bool { No, Yes };

/// op(A) is [m,k]: A is stored as [m,k], or as [k,m] if transposed. op(B) is [k,n]: B is stored as [k,n], or as [n,k]
/// if transposed. C is [m,n] and overlaps neither. With beta = 0 its contents are never read. T is float or double.
/// Equal arguments on equal threads give equal bits, whatever was computed before.
template <class D, class T>
void matmul(const D& device, Transpose transpose_a, Transpose transpose_b, std::int64_t m, std::int64_t n,
            std::int64_t k, const T* a, const T* b, T beta, T* c);

/// The same with a B in bfloat16 storage, which is widened to T by tiles.
template <class D, class T>
void matmul(const D& device, Transpose transpose_a, Transpose transpose_b, std::int64_t m, std::int64_t n,
            std::int64_t k, const T* a, const bf16* b, T beta, T* c);

/// The same of bfloat16 matrices with float32 sums, as kernels/packed.h. C is bf16 (rounded once, behind the sum) or
/// float.
template <class D, class C>
void matmul(const D& device, Transpose transpose_a, Transpose transpose_b, std::int64_t m, std::int64_t n,
            std::int64_t k, const bf16* a, const bf16* b, float beta, C* c);

}  // namespace limbeck::kernels
