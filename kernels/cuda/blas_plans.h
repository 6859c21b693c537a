// What cuBLASLt advised for products, by shape: asking takes longer than many a product.
#pragma once

#include <cublasLt.h>

#include <compare>
#include <cstdint>
#include <map>

namespace limbeck::kernels {

struct BlasPlan {
  /// Types are cudaDataType; transposes and alignments (in bytes, of A, B and C) as the library sees them.
  struct Key {
    int type = 0, result = 0, transpose_a = 0, transpose_b = 0;
    std::int64_t m = 0, n = 0, k = 0, row_a = 0, row = 0;
    std::uint32_t alignment[3] = {};
    friend auto operator<=>(const Key&, const Key&) = default;
  };
};

using BlasPlans = std::map<BlasPlan::Key, cublasLtMatmulAlgo_t>;

}  // namespace limbeck::kernels
