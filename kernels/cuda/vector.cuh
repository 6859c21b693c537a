// Values side by side in memory, read and written in one access of up to 16 bytes, and widened and rounded on the way.
//
//     const auto x = load<4>(from + i);                 // Values<Acc<T>, 4>; from + i a multiple of 4 values
//     store(to + i, x);                                 // rounded to what `to` points to
#pragma once

#include <cuda_bf16.h>

#include <bit>
#include <cstdint>
#include <initializer_list>
#include <type_traits>

#include "gpu.h"
#include "kernels/bf16.h"

namespace limbeck::kernels {

template <class T, int N>
struct alignas(sizeof(T) * N) Values {
  T v[N];
  __host__ __device__ T& operator[](int i) { return v[i]; }
  __host__ __device__ const T& operator[](int i) const { return v[i]; }
};

/// How many values are one access of 16 bytes where those of the widest type are.
template <class... T>
inline constexpr int vector_length = [] {
  std::size_t widest = 1;
  for (const std::size_t size : {sizeof(T)...}) widest = size > widest ? size : widest;
  return static_cast<int>(16 / widest);
}();

/// x as a T, rounded to nearest even where T is narrower, as kernels/bf16.h's `as`, in one instruction.
template <class T, class A>
__device__ T rounded(A x) {
  if constexpr (std::is_same_v<T, bf16> && !std::is_same_v<A, bf16>)
    return std::bit_cast<bf16>(__bfloat16_as_ushort(__float2bfloat16_rn(static_cast<float>(x))));
  else
    return as<T>(x);
}

template <int N, class T>
__device__ Values<Acc<T>, N> widened(const Values<T, N>& raw) {
  Values<Acc<T>, N> x;
  for (int i = 0; i < N; ++i) x[i] = as<Acc<T>>(raw[i]);
  return x;
}

/// N values from p on, which is a multiple of N of them.
template <int N, class T>
__device__ Values<Acc<T>, N> load(const T* p) {
  return widened(*reinterpret_cast<const Values<T, N>*>(p));
}

template <int N, class T, class A>
__device__ void store(T* p, const Values<A, N>& x) {
  Values<T, N> raw;
  for (int i = 0; i < N; ++i) raw[i] = rounded<T>(x[i]);
  *reinterpret_cast<Values<T, N>*>(p) = raw;
}

/// The same for rows of any width that begin anywhere: of values that are no `Whole` vectors the first `count` are read
/// (the others are 0) and written one by one. `read` leaves them as they are stored.
template <int N, bool Whole, class T>
__device__ Values<T, N> read(const T* p, int count) {
  if constexpr (Whole) {
    return *reinterpret_cast<const Values<T, N>*>(p);
  } else {
    Values<T, N> x{};
    for (int i = 0; i < N; ++i)
      if (i < count) x[i] = p[i];
    return x;
  }
}

template <int N, bool Whole, class T>
__device__ Values<Acc<T>, N> load(const T* p, int count) {
  return widened(read<N, Whole>(p, count));
}

template <bool Whole, int N, class T, class A>
__device__ void store(T* p, const Values<A, N>& x, int count) {
  if constexpr (Whole) {
    store(p, x);
  } else {
    for (int i = 0; i < N; ++i)
      if (i < count) p[i] = rounded<T>(x[i]);
  }
}

/// N values, or the first `count` of them, bit by bit.
template <int N, bool Whole, class T>
__device__ void copy(const T* from, T* to, int count) {
  if constexpr (Whole) {
    *reinterpret_cast<Values<T, N>*>(to) = *reinterpret_cast<const Values<T, N>*>(from);
  } else {
    for (int i = 0; i < N; ++i)
      if (i < count) to[i] = from[i];
  }
}

/// Whether vectors of N values may be read from each of the pointers. None are read from a null one.
template <int N, class... T>
bool are_aligned(const T*... p) {
  return ((reinterpret_cast<std::uintptr_t>(p) % (sizeof(T) * N) == 0) && ...);
}

/// Whether vectors of N values may be read from each row of `width` values.
template <int N, class... T>
bool are_rows_aligned(std::int64_t width, const T*... p) {
  return width % N == 0 && are_aligned<N>(p...);
}

}  // namespace limbeck::kernels
