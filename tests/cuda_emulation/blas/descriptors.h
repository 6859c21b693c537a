// What cuBLASLt's opaque descriptors hold here.
#pragma once

#include <cublasLt.h>

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

struct BlasDescription {
  std::int32_t compute_type, scale_type, pointer_mode, transpose_a, transpose_b, transpose_c;
  std::uint32_t epilogue;
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
