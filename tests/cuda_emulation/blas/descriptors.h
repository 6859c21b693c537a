// What cuBLASLt's opaque descriptors hold here.
#pragma once

#include <cublasLt.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

namespace limbeck::emulation {

struct BlasLayout {
  std::int32_t type, order;
  std::uint64_t rows, columns;
  std::int64_t leading;
  std::int32_t batches;
  std::int64_t batch_stride;
};

inline std::size_t size_of(std::int32_t type) {
  return type == CUDA_R_64F ? 8 : type == CUDA_R_32F ? 4 : type == CUDA_R_8F_E4M3 ? 1 : 2;
}

/// Where an element lies, counted in elements.
inline std::size_t place(const BlasLayout& x, std::uint64_t row, std::uint64_t column) {
  const auto leading = static_cast<std::uint64_t>(x.leading);
  return x.order == CUBLASLT_ORDER_COL ? column * leading + row : row * leading + column;
}

struct BlasDescription {
  std::int32_t compute_type, scale_type, pointer_mode, transpose_a, transpose_b, transpose_c;
  std::uint32_t epilogue;
  std::int32_t a_scale_mode = CUBLASLT_MATMUL_MATRIX_SCALE_SCALAR_32F, b_scale_mode = a_scale_mode;
  const void *a_scales = nullptr, *b_scales = nullptr;
};

struct BlasPreference {
  std::uint64_t max_workspace_bytes;
  std::uint32_t alignment[4];  // of A, B, C, D
};

/// An algorithm is for the problem that it was found for.
struct BlasAlgorithm {
  std::uint64_t problem;  // its hash
  std::uint64_t workspace_bytes;
  std::uint32_t alignment[4];
};

template <class T, class Opaque>
T read_opaque(const Opaque& from) {
  static_assert(sizeof(T) <= sizeof(from.data) && std::is_trivially_copyable_v<T>);
  T value;
  std::memcpy(&value, from.data, sizeof value);
  return value;
}
template <class T, class Opaque>
void write_opaque(const T& value, Opaque& to) {
  static_assert(sizeof(T) <= sizeof(to.data) && std::is_trivially_copyable_v<T>);
  std::memcpy(to.data, &value, sizeof value);
}

}  // namespace limbeck::emulation
