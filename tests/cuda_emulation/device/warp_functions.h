// CUDA's barriers and warp functions, by their names.
#pragma once

#include <concepts>
#include <cstdint>
#include <source_location>
#include <type_traits>

#include "tests/cuda_emulation/fibers/warp.h"

namespace limbeck::emulation {

using Where = std::source_location;

template <class T>
T shuffled(const char* what, const Where& where, std::uint32_t mask, T value, unsigned source) {
  static_assert(sizeof(T) <= 16 && std::is_trivially_copyable_v<T>);
  shuffle(what, where, mask, &value, sizeof(T), source);
  return value;
}

/// Of the values of the lanes in the mask, from the lowest lane up.
template <class T, class F>
T reduced(const char* what, const Where& where, std::uint32_t mask, T value, F&& combine) {
  std::uint64_t all[32];
  gather(what, where, mask, static_cast<std::uint64_t>(value), all);
  bool first = true;
  for (unsigned l = 0; l < 32; ++l)
    if ((mask >> l & 1U) != 0) {
      value = first ? static_cast<T>(all[l]) : static_cast<T>(combine(value, static_cast<T>(all[l])));
      first = false;
    }
  return value;
}

}  // namespace limbeck::emulation

inline void __syncthreads(limbeck::emulation::Where where = limbeck::emulation::Where::current()) {
  limbeck::emulation::block_barrier("__syncthreads", where, false);
}
inline int __syncthreads_count(int vote, limbeck::emulation::Where where = limbeck::emulation::Where::current()) {
  return static_cast<int>(limbeck::emulation::block_barrier("__syncthreads_count", where, vote != 0).agreed);
}
inline int __syncthreads_and(int vote, limbeck::emulation::Where where = limbeck::emulation::Where::current()) {
  const auto [agreed, all] = limbeck::emulation::block_barrier("__syncthreads_and", where, vote != 0);
  return agreed == all ? 1 : 0;
}
inline int __syncthreads_or(int vote, limbeck::emulation::Where where = limbeck::emulation::Where::current()) {
  return limbeck::emulation::block_barrier("__syncthreads_or", where, vote != 0).agreed != 0 ? 1 : 0;
}
inline void __syncwarp(unsigned mask = 0xffffffffU,
                       limbeck::emulation::Where where = limbeck::emulation::Where::current()) {
  limbeck::emulation::warp_barrier(where, mask);
}

template <class T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32,
              limbeck::emulation::Where where = limbeck::emulation::Where::current()) {
  const auto w = static_cast<unsigned>(width);
  const unsigned segment = limbeck::emulation::current_lane() & ~(w - 1);
  return limbeck::emulation::shuffled("__shfl_sync", where, mask, value,
                                      segment | (static_cast<unsigned>(source) & (w - 1)));
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int lane_mask, int width = 32,
                  limbeck::emulation::Where where = limbeck::emulation::Where::current()) {
  const unsigned lane = limbeck::emulation::current_lane();
  const unsigned source = lane ^ static_cast<unsigned>(lane_mask);
  const unsigned last = lane | (static_cast<unsigned>(width) - 1);
  return limbeck::emulation::shuffled("__shfl_xor_sync", where, mask, value, source > last ? lane : source);
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32,
                 limbeck::emulation::Where where = limbeck::emulation::Where::current()) {
  const unsigned lane = limbeck::emulation::current_lane();
  const unsigned in_segment = lane & (static_cast<unsigned>(width) - 1);
  return limbeck::emulation::shuffled("__shfl_up_sync", where, mask, value, delta > in_segment ? lane : lane - delta);
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32,
                   limbeck::emulation::Where where = limbeck::emulation::Where::current()) {
  const unsigned lane = limbeck::emulation::current_lane();
  const unsigned last = lane | (static_cast<unsigned>(width) - 1);
  return limbeck::emulation::shuffled("__shfl_down_sync", where, mask, value,
                                      delta > last - lane ? lane : lane + delta);
}

inline unsigned __ballot_sync(unsigned mask, int vote,
                              limbeck::emulation::Where where = limbeck::emulation::Where::current()) {
  return limbeck::emulation::ballot("__ballot_sync", where, mask, vote != 0);
}
inline int __any_sync(unsigned mask, int vote, limbeck::emulation::Where where = limbeck::emulation::Where::current()) {
  return limbeck::emulation::ballot("__any_sync", where, mask, vote != 0) != 0 ? 1 : 0;
}
inline int __all_sync(unsigned mask, int vote, limbeck::emulation::Where where = limbeck::emulation::Where::current()) {
  return limbeck::emulation::ballot("__all_sync", where, mask, vote == 0) == 0 ? 1 : 0;
}
/// A bit for each lane of the mask with the same value.
template <std::integral T>
unsigned __match_any_sync(unsigned mask, T value,
                          limbeck::emulation::Where where = limbeck::emulation::Where::current()) {
  std::uint64_t all[32];
  limbeck::emulation::gather("__match_any_sync", where, mask, static_cast<std::uint64_t>(value), all);
  unsigned same = 0;
  for (unsigned l = 0; l < 32; ++l)
    if ((mask >> l & 1U) != 0 && all[l] == static_cast<std::uint64_t>(value)) same |= 1U << l;
  return same;
}

template <std::integral T>
T __reduce_add_sync(unsigned mask, T value, limbeck::emulation::Where where = limbeck::emulation::Where::current()) {
  return limbeck::emulation::reduced("__reduce_add_sync", where, mask, value, [](T a, T b) { return a + b; });
}
template <std::integral T>
T __reduce_min_sync(unsigned mask, T value, limbeck::emulation::Where where = limbeck::emulation::Where::current()) {
  return limbeck::emulation::reduced("__reduce_min_sync", where, mask, value, [](T a, T b) { return a < b ? a : b; });
}
template <std::integral T>
T __reduce_max_sync(unsigned mask, T value, limbeck::emulation::Where where = limbeck::emulation::Where::current()) {
  return limbeck::emulation::reduced("__reduce_max_sync", where, mask, value, [](T a, T b) { return a < b ? b : a; });
}
inline unsigned __reduce_or_sync(unsigned mask, unsigned value,
                                 limbeck::emulation::Where where = limbeck::emulation::Where::current()) {
  return limbeck::emulation::reduced("__reduce_or_sync", where, mask, value,
                                     [](unsigned a, unsigned b) { return a | b; });
}
inline unsigned __reduce_and_sync(unsigned mask, unsigned value,
                                  limbeck::emulation::Where where = limbeck::emulation::Where::current()) {
  return limbeck::emulation::reduced("__reduce_and_sync", where, mask, value,
                                     [](unsigned a, unsigned b) { return a & b; });
}
