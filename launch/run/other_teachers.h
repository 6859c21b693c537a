// Teachers beside a run's first one, and what each teaches: at a token the student learns from the mean of the
// distributions of those that teach its source.
//
//     const TokenShares shares = others.shares_of(memory, samples, 0, samples.num_sequences);
//     if (others.runs(shares, k)) ...                                        // teacher k of all, the first one is 0
//     target_source(given, targets, vocabulary, options);                    // core/ops/mixed_teachers.h
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "core/nn/transformer.h"
#include "core/ops/mixed_teachers.h"
#include "data/text/loader.h"
#include "launch/run/mapped_layers.h"

namespace limbeck::launch {

/// Of each teacher, the first one first.
struct TokenShares {
  std::vector<core::Tensor> values;  // [T] float64
  std::vector<bool> teaches;         // any of the tokens; the first where there are none
};

struct OtherTeachers {
  struct One {
    std::unique_ptr<nn::Transformer> model;
    std::unique_ptr<MappedLayers> streamed;  // null where it fits into memory
  };
  std::vector<One> teachers;
  std::vector<std::vector<double>> shares;  // teacher_shares
  bool together = false;  // ranks exchange rows of experts, or keys: each runs every teacher in every pass

  /// Of the tokens of sequences [first, first + count) of `samples`, by the sources of their pieces.
  TokenShares shares_of(const core::MemoryPtr& memory, const data::TokenBatch& samples, std::int64_t first,
                        std::int64_t count) const;
  /// Whether teacher k of all runs over tokens of these shares.
  bool runs(const TokenShares& of, std::size_t k) const { return together || of.teaches[k]; }
  /// Appends what the others give of a batch, of those that teach any of it. `given` may have the first one's.
  void give(const nn::Batch& batch, const TokenShares& of, std::vector<core::TeacherOutput>& given) const;
};

}  // namespace limbeck::launch
