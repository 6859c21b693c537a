// Indices that come with the data, checked before kernels use them as addresses. Where the host can read them, a wrong
// one throws at once. Else the device notes it, and it throws when the notes are read, once a step.
//
//     check_indices(tokens, 0, vocabulary, [=](std::int64_t at, std::int64_t id) {
//       return fmt::format("embedding: token {} at position {} is not in the vocabulary of {}", id, at, vocabulary);
//     });
//     ...
//     NotesCopy notes(memory);      // on its way to the host
//     notes.check();                // throws what the first failed check since the last reading says
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "core/tensor.h"

namespace limbeck::core {

/// The message for the index `value` at `position`.
using IndexMessage = std::function<std::string(std::int64_t position, std::int64_t value)>;

/// Throws, or notes, unless all of `index` (int32 or int64) are in [first, limit).
void check_indices(const Tensor& index, std::int64_t first, std::int64_t limit, IndexMessage message);

/// What the checks say that a memory's device does and nobody has read yet, in their order: of work that is done again
/// without being queued again they are set to what they were behind it.
std::vector<IndexMessage> unread_checks(const MemoryPtr& memory);
void set_unread_checks(const MemoryPtr& memory, std::vector<IndexMessage> messages);

/// What a memory's device has noted since it was last read.
class NotesCopy {
 public:
  explicit NotesCopy(const MemoryPtr& memory);
  /// Waits; throws where a check failed.
  void check();

 private:
  MemoryPtr memory_;
  std::vector<IndexMessage> messages_;
  std::optional<HostCopy> noted_;
};

}  // namespace limbeck::core
