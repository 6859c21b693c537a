// Newton-Schulz orthogonalisation (Jordan et al., 2024, "Muon"): brings the singular values of a matrix near 1 by
// products alone.
//
//     Tensor update = ...;          // [rows,cols]
//     orthogonalise(update);        // about U V^T of its singular value decomposition U S V^T
#pragma once

#include "core/tensor.h"

namespace limbeck::optim {

/// x / max(|x|, 1e-7), |x| the root of the sum of squares, then five times x <- a x + (b A + c A^2) x with A = x x^T
/// and (a, b, c) = (3.4445, -4.7750, 2.0315); where there are more rows than columns x <- a x + x (b A + c A^2) with
/// A = x^T x, which is the same of the transposed matrix. Singular values end between about 0.7 and 1.2, zeros stay. In
/// x's dtype, float32 or float64. Throws unless x is a matrix.
void orthogonalise(core::Tensor& x /*[rows,cols]*/);

}  // namespace limbeck::optim
