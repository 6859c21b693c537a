// What cuBLASLt advised for products, by shape: asking takes longer than many a product.
#pragma once

#include <cublasLt.h>

#include <compare>
#include <cstdint>
#include <map>

namespace limbeck::kernels {

/// Types are cudaDataType; transposes as the caller has them, alignments in bytes, of the library's A, B and D.
struct BlasShape {
  int type = 0, result = 0, transpose_a = 0, transpose_b = 0;
  std::int64_t m = 0, n = 0, k = 0, row_a = 0, row = 0;
  std::uint32_t alignment[3] = {};
  friend auto operator<=>(const BlasShape&, const BlasShape&) = default;
};

using BlasPlans = std::map<BlasShape, cublasLtMatmulAlgo_t>;

}  // namespace limbeck::kernels
