// Sequences of tokens as kernels take them that go along them (core/ops/sequences.h).
#pragma once

#include <cstdint>

namespace limbeck::kernels {

/// Sequence n is tokens [offsets[n], offsets[n+1]). A token goes on from the one before it where that is of its
/// sequence and of its document. The first of a sequence goes on from row slots[n] of the states, where there are
/// some, and the sequence leaves its own there. All pointers are on the device.
struct Sequences {
  std::int64_t tokens = 0;                 // T
  std::int64_t number = 0;                 // N
  const std::int64_t* offsets = nullptr;   // [N+1]
  const std::int32_t* document = nullptr;  // [T]
  const std::int64_t* slots = nullptr;     // [N]; null: there are no states
};

}  // namespace limbeck::kernels
