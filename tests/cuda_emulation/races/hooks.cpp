// What -fsanitize=thread has compilers call at each access: answered here, not by the sanitizer's library, which knows
// threads of the machine and not those of a kernel.
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "tests/cuda_emulation/races/shadow.h"

using limbeck::emulation::note_access;
using limbeck::emulation::Touch;

// NOLINTBEGIN: the compilers' names
#define CALLER __builtin_return_address(0)

#define PLAIN(prefix, bytes)                                                                 \
  void __tsan_##prefix##read##bytes(void* p) { note_access(p, bytes, Touch::read, CALLER); } \
  void __tsan_##prefix##write##bytes(void* p) { note_access(p, bytes, Touch::write, CALLER); }

#define ATOMIC_FUNCTION(result, bits, name, ...) \
  result __tsan_atomic##bits##_##name(volatile void* address, __VA_ARGS__)
#define ATOMIC_ACCESS(type, touch)                \
  auto* p = static_cast<volatile type*>(address); \
  note_access(const_cast<type*>(p), sizeof(type), Touch::touch, CALLER)

#define ATOMIC_UPDATE(bits, type, name)                 \
  ATOMIC_FUNCTION(type, bits, name, type value, int) {  \
    ATOMIC_ACCESS(type, atomic_write);                  \
    return __atomic_##name(p, value, __ATOMIC_RELAXED); \
  }

#define ATOMIC_COMPARE(bits, type, name)                                                                \
  ATOMIC_FUNCTION(bool, bits, name, void* expected, type value, int, int) {                             \
    ATOMIC_ACCESS(type, atomic_write);                                                                  \
    return __atomic_compare_exchange_n(p, static_cast<type*>(expected), value, false, __ATOMIC_RELAXED, \
                                       __ATOMIC_RELAXED);                                               \
  }

#define ATOMIC(bits, type)                                                                       \
  type __tsan_atomic##bits##_load(const volatile void* address, int) {                           \
    auto* p = static_cast<const volatile type*>(address);                                        \
    note_access(const_cast<const type*>(p), sizeof(type), Touch::atomic_read, CALLER);           \
    return __atomic_load_n(p, __ATOMIC_RELAXED);                                                 \
  }                                                                                              \
  ATOMIC_FUNCTION(void, bits, store, type value, int) {                                          \
    ATOMIC_ACCESS(type, atomic_write);                                                           \
    __atomic_store_n(p, value, __ATOMIC_RELAXED);                                                \
  }                                                                                              \
  ATOMIC_FUNCTION(type, bits, exchange, type value, int) {                                       \
    ATOMIC_ACCESS(type, atomic_write);                                                           \
    return __atomic_exchange_n(p, value, __ATOMIC_RELAXED);                                      \
  }                                                                                              \
  ATOMIC_UPDATE(bits, type, fetch_add)                                                           \
  ATOMIC_UPDATE(bits, type, fetch_sub)                                                           \
  ATOMIC_UPDATE(bits, type, fetch_and)                                                           \
  ATOMIC_UPDATE(bits, type, fetch_or)                                                            \
  ATOMIC_UPDATE(bits, type, fetch_xor)                                                           \
  ATOMIC_COMPARE(bits, type, compare_exchange_strong)                                            \
  ATOMIC_COMPARE(bits, type, compare_exchange_weak)                                              \
  ATOMIC_FUNCTION(type, bits, compare_exchange_val, type expected, type value, int, int) {       \
    ATOMIC_ACCESS(type, atomic_write);                                                           \
    __atomic_compare_exchange_n(p, &expected, value, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED); \
    return expected;                                                                             \
  }

extern "C" {

void __tsan_init() { limbeck::emulation::start_noting(); }
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}

PLAIN(, 1)
PLAIN(, 2)
PLAIN(, 4)
PLAIN(, 8)
PLAIN(, 16)
PLAIN(unaligned_, 2)
PLAIN(unaligned_, 4)
PLAIN(unaligned_, 8)
PLAIN(unaligned_, 16)
void __tsan_read_range(void* p, std::size_t bytes) { note_access(p, bytes, Touch::read, CALLER); }
void __tsan_write_range(void* p, std::size_t bytes) { note_access(p, bytes, Touch::write, CALLER); }
void __tsan_vptr_update(void*, void*) {}
void __tsan_vptr_read(void*) {}

ATOMIC(8, std::uint8_t)
ATOMIC(16, std::uint16_t)
ATOMIC(32, std::uint32_t)
ATOMIC(64, std::uint64_t)
void __tsan_atomic_thread_fence(int) {}
void __tsan_atomic_signal_fence(int) {}

// clang's, in place of the library's.
void* __tsan_memcpy(void* to, const void* from, std::size_t bytes) {
  note_access(from, bytes, Touch::read, CALLER);
  note_access(to, bytes, Touch::write, CALLER);
  return std::memcpy(to, from, bytes);
}
void* __tsan_memmove(void* to, const void* from, std::size_t bytes) {
  note_access(from, bytes, Touch::read, CALLER);
  note_access(to, bytes, Touch::write, CALLER);
  return std::memmove(to, from, bytes);
}
void* __tsan_memset(void* to, int value, std::size_t bytes) {
  note_access(to, bytes, Touch::write, CALLER);
  return std::memset(to, value, bytes);
}

}  // extern "C"
// NOLINTEND
