// A rank's memory by what it is for, as it is planned (launch/plan/imagined_run.h) and as a run measures it.
//
//     for (const MemoryPart& part : parts_of(memory)) json[part.name] = part.bytes;
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

namespace limbeck::launch {

/// Bytes in a rank's tensors.
struct MemoryParts {
  // Kept from step to step:
  std::int64_t parameters = 0;  // the student's values, in the form that passes read
  std::int64_t teacher = 0;
  std::int64_t gradients = 0;  // buckets
  std::int64_t optimizer = 0;  // moments, and master weights
  std::int64_t other = 0;      // rotary tables, forms of weights that products read
  std::int64_t copy = 0;       // of what is saved beside steps (train.save_in_background), in a CPU's memory
  // And of a step:
  std::int64_t activations =
      0;                   // at its peak, with what travels: buffers of exchanges, and of layers that are gathered
  std::int64_t start = 0;  // the most before the first step, in all
  std::int64_t held = 0;   // from the system, for the same
  std::int64_t host = 0;   // beside all of these, in the host's memory: what a GPU has of it only while it is used

  std::int64_t kept() const { return parameters + teacher + gradients + optimizer + other + copy; }
  std::int64_t peak() const { return std::max(kept() + activations, start); }
};

/// A part: its name in JSON, and to people.
struct MemoryPart {
  const char* name;
  const char* text;
  std::int64_t bytes;
};
std::vector<MemoryPart> parts_of(const MemoryParts& memory);

}  // namespace limbeck::launch
