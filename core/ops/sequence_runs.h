// Sequences that are cut over ranks, for operations that go along them (Mamba-2's): each rank has runs of tokens of
// each sequence, of which one goes on where another, mostly another rank's, has ended. What a run leaves to the next is
// small and the same for any length: a state, the last tokens that a filter sees. All ranks hear of every run's, and
// each finds what its own begin with.
//
//     const SequenceRuns& runs = batch.ring->runs;                         // core/nn/cut_batch.h makes them
//     Var y = cut_causal_conv(tape, x, weight, bias, runs, comm);          // as causal_conv of the whole sequences
//     Var z = cut_state_scan(tape, y, dt, b, c, weights, shape, runs, comm);
#pragma once

#include "core/communicators.h"
#include "core/ops/sequences.h"
#include "core/tape.h"

namespace limbeck::core {

/// The runs of P ranks, of which each has as many, R, some without tokens. Run r of rank q is number q R + r of all.
struct SequenceRuns {
  Sequences own;         // this rank's runs, each as a sequence by itself
  Tensor slots;          // [R] int64: r
  Tensor chain_offsets;  // [M+1] int64
  /// The runs with tokens: in a chain each begins in the document that the one before it ends in.
  Tensor chain_rows;  // int64

  // For a filter of K tokens, of each run the K-1 tokens that lie before it, the latest last. In one column for each
  // K-1 from 1 to kernels::most_taps - 1, one behind the other, and -1 where there is none.
  Tensor tails;    // int32 [R,K-1] of these: this rank's last tokens of its runs
  Tensor places;   // int32 [P,R,K-1]: of each run's tokens before it, of its first document, which of all ranks' tails
  Tensor readers;  // int32 [P,R,K-1]: the same, as this rank's tokens; -1: another's

  std::int64_t number() const { return slots.numel(); }
  /// Of a column with so many numbers for each K-1, those for one.
  static Tensor for_tokens(const Tensor& column, std::int64_t tokens, std::int64_t rows) {
    return column.rows(rows * tokens * (tokens - 1) / 2, rows * tokens);
  }
};

/// [R,tokens,C]: what lies before each run, of x [T,C] on all ranks; 0 where there is nothing of its first document.
/// Collective, forward and backward. At most kernels::most_taps - 1 tokens.
Var rows_before(Tape& tape, const Var& x, const SequenceRuns& runs, std::int64_t tokens, nn::ContextComm& comm);

}  // namespace limbeck::core
