// Sequences of documents of given lengths.
//
//     const core::Sequences sequences = sequences_of(memory, {{3, 70}, {}, {5}});   // two documents, none, one
#pragma once

#include <vector>

#include "core/ops/sequences.h"

namespace limbeck::testing {

using DocumentLengths = std::vector<std::vector<std::int64_t>>;  // by sequence

/// Documents count from 0 in each sequence.
inline core::Sequences sequences_of(const core::MemoryPtr& memory, const DocumentLengths& lengths) {
  std::vector<std::int64_t> offsets = {0};
  std::vector<std::int32_t> document;
  for (const auto& sequence : lengths) {
    std::int32_t number = 0;
    for (const std::int64_t length : sequence)
      document.resize(document.size() + static_cast<std::size_t>(length), number++);
    offsets.push_back(static_cast<std::int64_t>(document.size()));
  }
  return {core::Tensor::from<std::int64_t>(memory, {static_cast<std::int64_t>(offsets.size())}, offsets),
          core::Tensor::from<std::int32_t>(memory, {static_cast<std::int64_t>(document.size())}, document)};
}

/// Row slots[n] is sequence n's.
inline core::SequenceState state_of(const core::Tensor& rows, const std::vector<std::int64_t>& slots) {
  return {rows, core::Tensor::from<std::int64_t>(rows.memory(), {static_cast<std::int64_t>(slots.size())}, slots)};
}

}  // namespace limbeck::testing
