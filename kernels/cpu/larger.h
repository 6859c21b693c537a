// The larger and the smaller of two numbers, for loops under `#pragma omp simd`. std::max and std::min take references,
// which put a reduction's variable and what the loop declares into memory; from there GCC 14 reads garbage where the
// loop has a branch (AVX2 and AVX-512).
#pragma once

namespace limbeck::kernels {

template <class T>
T larger(T a, T b) {
  return a < b ? b : a;
}

template <class T>
T smaller(T a, T b) {
  return b < a ? b : a;
}

}  // namespace limbeck::kernels
