// What a model reads: for every token its id, target, and its place in the step, the sequence and the document.
// Positions, masks, random numbers and the balance loss read only these, so they do not depend on how a step is cut
// among ranks.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "core/ops/ring_attention.h"
#include "core/ops/rope.h"
#include "core/tensor.h"

namespace limbeck::nn {

using core::MemoryPtr;
using core::Tensor;

/// T tokens in whole sequences, one behind the other, or of each sequence the tokens that are this rank's. A rank may
/// have none.
struct Batch {
  Tensor tokens;                              // [T] int32
  Tensor targets;                             // [T] int32, -1: no target
  Tensor position;                            // [T] int32, from 0 at the start of each document
  Tensor document;                            // [T] int32, within the sequence
  Tensor sequence;                            // [T] int32, index of the local sequence, not decreasing
  Tensor context;                             // [T] int32, positions that the token's document is known to have
  Tensor global_index;                        // [T] int64, over all ranks and micro-batches of the step
  Tensor sequence_offsets;                    // [N+1] int64: tokens [offsets[n], offsets[n+1]) are sequence n
  std::vector<std::int64_t> offsets_on_host;  // the same
  Tensor run_offsets;                         // [R+1] int64: the documents, where their positions count up by one
  std::int64_t longest_run = 0;
  std::int64_t max_position = 0;     // highest in `position`
  std::int64_t longest_context = 0;  // highest in `context`

  /// What layers that predict further tokens read: of depth k the token k + 1 further on in the same document, 0 where
  /// there is none, and that one's target.
  struct Ahead {
    Tensor tokens, targets;  // [T] int32
  };
  std::vector<Ahead> ahead;  // by depth

  /// Where the ranks have the sequences' other tokens; null: sequences are whole.
  std::shared_ptr<const core::RingLayout> ring = nullptr;

  // Over all ranks and micro-batches of the optimizer step: what router losses are divided by.
  double global_sequences = 0;
  double global_tokens = 0;

  std::int64_t num_tokens() const { return tokens.numel(); }
  std::int64_t num_sequences() const { return sequence_offsets.numel() - 1; }
  /// Self-attention over the batch's own tokens.
  core::AttentionLayout attention_layout() const;

  /// Values of another batch of the same shapes, of any memory; what the host knows of them stays.
  void copy_values(const Batch& other);
  /// The host knows only what any values of these shapes have: documents are whatever the device finds, and positions
  /// go to the end of the longest sequence.
  void forget_values();
};

/// Columns of a batch on the host; every vector has T entries, the offsets N+1.
struct BatchColumns {
  std::span<const std::int32_t> tokens, targets, position, document, sequence;
  std::span<const std::int64_t> global_index, sequence_offsets;
  std::span<const std::int32_t> context = {};  // none: to the last of the document's positions here
  std::int64_t num_ahead = 0;                  // depths of Batch::ahead
};
/// Checks the columns' lengths and copies them to the device. Global counts are those of this batch alone.
Batch make_batch(const MemoryPtr& memory, const BatchColumns& columns);

/// Tokens of a text, the first of them at position `first`.
struct TextPart {
  std::span<const std::int32_t> tokens;
  std::int64_t first = 0;
  std::int64_t context = 0;  // positions that the text is known to have; 0: those to the end of this part
};
/// A sequence without targets of each part.
Batch sequences_of(const MemoryPtr& memory, std::span<const TextPart> parts);
Batch one_sequence(const MemoryPtr& memory, std::span<const std::int32_t> tokens, std::int64_t first);

}  // namespace limbeck::nn
