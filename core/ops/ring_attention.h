// Causal attention over sequences that are cut over ranks: a rank has some tokens of each, as queries and as keys. Keys
// and values go round the ranks while the queries look at those that are here, and what is found of each rank's is
// merged by its logsumexp (Liu et al. 2023, "Ring attention with blockwise transformers", arXiv 2310.01889).
//
//     auto ring = std::make_shared<RingLayout>(...);                       // core/nn/cut_batch.h makes it
//     Var y = ring_attention(tape, q, k, v, shape, ring, *comms.context);  // as attention() of the whole sequences
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "core/communicators.h"
#include "core/ops/attention.h"
#include "core/ops/sequence_runs.h"
#include "core/slice.h"

namespace limbeck::core {

/// Which tokens the ranks have of the same sequences.
struct RingLayout {
  struct Part {
    Tensor offsets;   // [N+1] int64: those of sequence n, of which there may be none
    Tensor position;  // [T] int32
    Tensor document;  // [T] int32
    /// Which tokens of the whole sequences, one behind the other, they are, in order.
    std::vector<Slice> pieces = {};
  };
  Tensor sequence;          // of all of the whole's tokens: [sum of T] int32, the number of each one's sequence
  std::vector<Part> parts;  // by rank
  /// [ranks of queries][ranks of keys]: how many positions the nearest key lies behind a query of its document that is
  /// not before it; -1: there is none.
  std::vector<std::int64_t> nearest;
  SequenceRuns runs = {};  // of the rank itself and all others, for what goes along sequences, where anything does

  std::int64_t size() const { return std::ssize(parts); }
  std::int64_t num_tokens(std::int64_t rank) const { return parts[static_cast<std::size_t>(rank)].position.numel(); }
  /// Whether a query of one rank sees a key of another, in a window or without one (0).
  bool sees(std::int64_t queries, std::int64_t keys, std::int64_t window) const {
    const std::int64_t distance = nearest[static_cast<std::size_t>(queries * size() + keys)];
    return distance >= 0 && (window == 0 || distance < window);
  }
  AttentionLayout between(std::int64_t queries, std::int64_t keys) const;
};

/// What attention() gives of the sequences as a whole, of this rank's tokens, which are parts[comm.rank()]: sums are
/// taken rank by rank, from this one backwards, in one order on every run. Keys and values that no query of another
/// rank sees stay where they are. Collective. Saves what attention() saves; of the others' keys and values it holds
/// those of two ranks at once. In bfloat16 what is found of each rank is rounded before it is merged, in float32.
Var ring_attention(Tape& tape, const Var& q /*[T,H*D]*/, const Var& k /*[T,G*D]*/, const Var& v /*[T,G*Dv]*/,
                   const AttentionShape& shape, const std::shared_ptr<const RingLayout>& ring, nn::ContextComm& comm,
                   const std::optional<Var>& sinks /*[H]*/ = {});

}  // namespace limbeck::core
