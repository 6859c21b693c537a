// Sequences of documents for kernels on both devices.
//
//     const BothSequences sequences({{3, 70}, {}, {5}}, {4, 0, 1});   // slots of states, or none
//     state_scan(gpu(), {.sequences = sequences.there(), ...});
#pragma once

#include <optional>
#include <vector>

#include "kernels/sequences.h"
#include "tests/kernels/cuda/on_gpu.h"

namespace limbeck::testing {

class BothSequences {
 public:
  explicit BothSequences(const std::vector<std::vector<std::int64_t>>& lengths, std::vector<std::int64_t> slots = {})
      : slots_(std::move(slots)) {
    for (const auto& sequence : lengths) {
      std::int32_t number = 0;
      for (const std::int64_t length : sequence)
        document_.resize(document_.size() + static_cast<std::size_t>(length), number++);
      offsets_.push_back(static_cast<std::int64_t>(document_.size()));
    }
    offsets_there_.emplace(offsets_);
    document_there_.emplace(document_);
    slots_there_.emplace(slots_);
  }
  std::int64_t tokens() const { return static_cast<std::int64_t>(document_.size()); }
  kernels::Sequences here() const {
    return {tokens(), number(), offsets_.data(), document_.data(), slots_.empty() ? nullptr : slots_.data()};
  }
  kernels::Sequences there() {
    return {tokens(), number(), offsets_there_->data(), document_there_->data(),
            slots_.empty() ? nullptr : slots_there_->data()};
  }

 private:
  std::int64_t number() const { return static_cast<std::int64_t>(offsets_.size()) - 1; }

  std::vector<std::int64_t> offsets_ = {0}, slots_;
  std::vector<std::int32_t> document_;
  std::optional<OnGpu<std::int64_t>> offsets_there_, slots_there_;
  std::optional<OnGpu<std::int32_t>> document_there_;
};

}  // namespace limbeck::testing
