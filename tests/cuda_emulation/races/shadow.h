// Who touched what during a launch, and whether two that touched the same were ordered. CUDA orders the threads of a
// block by __syncthreads and those of a warp by what its lanes do together; nothing orders blocks; atomics do not race
// with each other. Kernels tell of their accesses where they were compiled with -fsanitize=thread (hooks.cpp).
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <unordered_map>

#include "tests/cuda_emulation/races/stream_order.h"

namespace limbeck::emulation {

enum class Touch : std::uint8_t { read, write, atomic_read, atomic_write };

/// Notes an access of the thread of a kernel that runs, by the code at `code`. Fails, naming both, where it races with
/// another, and where it is to memory of a GPU that is not allocated. Nothing where no kernel runs, or none that tells.
void note_access(const void* address, std::size_t bytes, Touch touch, const void* code);

/// From now on all accesses are noted; the first kernel that tells calls it.
void start_noting();
/// Forgets what was noted on this thread of the machine: a launch begins.
void forget_accesses();

/// What this thread of the machine noted of memory that is not shared since it was last asked.
Footprint take_noted();

/// Accesses noted so far, by all threads of the machine.
std::uint64_t num_noted();

/// What was noted of memory, four bytes at a time.
class Shadow {
 public:
  struct Access {
    const void* code = nullptr;
    std::uint32_t block = 0;
    std::uint32_t barriers = 0;     // that its block had been through
    std::uint32_t collectives = 0;  // that its warp had been through
    std::uint16_t thread = 0;       // in its block
    std::uint8_t bytes = 0;         // a bit for each of the four; 0: no access
    Touch touch = Touch::read;
  };

  /// One that races with the new one, which is noted, or null. `is_shared`: other blocks' accesses are to other memory.
  const Access* note(std::uintptr_t word, const Access& access, bool is_shared);
  void clear();
  /// All that is not shared since clear().
  Footprint footprint() const;

 private:
  // Of many accesses to a place the last few stay: the oldest goes, or one that the new one makes needless.
  struct Word {
    std::array<Access, 4> accesses;
    std::uint8_t next = 0;
  };
  struct Page {
    std::uint64_t launch = 0;
    std::array<Word, Footprint::words_of_page> words;
    Footprint::Page touched;  // but shared memory
  };
  Page& page_of(std::uintptr_t number);

  std::unordered_map<std::uintptr_t, std::unique_ptr<Page>> pages_;
  std::uintptr_t last_number_ = ~std::uintptr_t{0};
  Page* last_page_ = nullptr;
  std::uint64_t launch_ = 1;
};

}  // namespace limbeck::emulation
