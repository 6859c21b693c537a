// CUDA's atomics, on integers alone: with floating-point numbers the sum would depend on the order.
#pragma once

#include <concepts>
#include <type_traits>

namespace limbeck::emulation {

template <class T>
concept AtomicInteger = std::integral<T> &&(sizeof(T) == 4 || sizeof(T) == 8);

template <AtomicInteger T, class F>
T atomic_update(T* p, F&& next) {
  T old = __atomic_load_n(p, __ATOMIC_RELAXED);
  while (!__atomic_compare_exchange_n(p, &old, static_cast<T>(next(old)), false, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
  }
  return old;
}

}  // namespace limbeck::emulation

// Each returns what was there before.
template <limbeck::emulation::AtomicInteger T>
T atomicAdd(T* p, std::type_identity_t<T> value) {
  return __atomic_fetch_add(p, value, __ATOMIC_RELAXED);
}
template <limbeck::emulation::AtomicInteger T>
T atomicSub(T* p, std::type_identity_t<T> value) {
  return __atomic_fetch_sub(p, value, __ATOMIC_RELAXED);
}
template <limbeck::emulation::AtomicInteger T>
T atomicOr(T* p, std::type_identity_t<T> value) {
  return __atomic_fetch_or(p, value, __ATOMIC_RELAXED);
}
template <limbeck::emulation::AtomicInteger T>
T atomicAnd(T* p, std::type_identity_t<T> value) {
  return __atomic_fetch_and(p, value, __ATOMIC_RELAXED);
}
template <limbeck::emulation::AtomicInteger T>
T atomicXor(T* p, std::type_identity_t<T> value) {
  return __atomic_fetch_xor(p, value, __ATOMIC_RELAXED);
}
template <limbeck::emulation::AtomicInteger T>
T atomicMax(T* p, std::type_identity_t<T> value) {
  return limbeck::emulation::atomic_update(p, [&](T old) { return old < value ? value : old; });
}
template <limbeck::emulation::AtomicInteger T>
T atomicMin(T* p, std::type_identity_t<T> value) {
  return limbeck::emulation::atomic_update(p, [&](T old) { return value < old ? value : old; });
}
template <limbeck::emulation::AtomicInteger T>
T atomicExch(T* p, std::type_identity_t<T> value) {
  return __atomic_exchange_n(p, value, __ATOMIC_RELAXED);
}
template <limbeck::emulation::AtomicInteger T>
T atomicCAS(T* p, std::type_identity_t<T> expected, std::type_identity_t<T> value) {
  __atomic_compare_exchange_n(p, &expected, value, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
  return expected;
}

// A block runs on one thread of the machine, in the order of its program.
inline void __threadfence() {}
inline void __threadfence_block() {}
inline void __threadfence_system() {}
