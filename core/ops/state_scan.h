// The states of Mamba-2 along each sequence (Dao & Gu 2024, "Transformers are SSMs", section 6: state-space duality).
//
//     const ScanShape shape{.num_heads = 24, .width = 64, .num_groups = 1, .state_width = 128};
//     const ScanWeights weights{as_var(dt_bias), as_var(a_log), as_var(skip)};
//     Var y = state_scan(tape, x, dt, b, c, weights, shape, sequences);      // [T,24*64]
#pragma once

#include <limits>
#include <optional>

#include "core/ops/sequence_runs.h"
#include "core/tape.h"

namespace limbeck::core {

struct ScanShape {
  std::int64_t num_heads = 0;    // H
  std::int64_t width = 0;        // P, channels of a head
  std::int64_t num_groups = 1;   // G, divides H: head h reads B and C of group h / (H / G)
  std::int64_t state_width = 0;  // N
  double least_step = 0;         // time_step_limit: what steps are held within
  double most_step = std::numeric_limits<double>::infinity();
};

/// Each [H], of the dtype of sums.
struct ScanWeights {
  Var dt_bias;
  Var a_log;  // A = -exp(a_log)
  Var skip;   // D
};

/// For each head, with the step s_t = softplus(dt_t + dt_bias) within its limits, a state h [P,N] and
///
///     h_t = exp(s_t A) h_{t-1} + s_t x_t B_t^T,        y_t = h_t C_t + D x_t
///
/// where h_{t-1} is 0 at the first token of a document. As products of matrices in chunks of tokens; memory beside
/// inputs and output is that of a state for every 64 tokens, and is freed at the end. Float32, float64 or bfloat16,
/// beside which weights, states, their gradients and all arithmetic are float32. Saves its inputs. Equal arguments on
/// equal devices give equal bits, whatever the number of threads. Formulas: docs/gradients.md.
/// With `state`, whose rows [S,H,P,N] are of the dtype of sums, a sequence goes on from its row; a sequence of a few
/// tokens then takes one pass over it a token. There is no gradient then.
Var state_scan(Tape& tape, const Var& x /*[T,H*P]*/, const Var& dt /*[T,H]*/, const Var& b /*[T,G*N]*/,
               const Var& c /*[T,G*N]*/, const ScanWeights& weights, const ScanShape& shape, const Sequences& sequences,
               const std::optional<SequenceState>& state = {});

/// The same of sequences that are cut over ranks, for this rank's tokens. Every rank hears what each run makes of no
/// state, and what it leaves of one before it, H (P N + 1) numbers, and goes along the runs in their order; backward
/// likewise, from their end. Saves also the states that its runs begin with. Collective, forward and backward.
Var cut_state_scan(Tape& tape, const Var& x /*[T,H*P]*/, const Var& dt /*[T,H]*/, const Var& b /*[T,G*N]*/,
                   const Var& c /*[T,G*N]*/, const ScanWeights& weights, const ScanShape& shape,
                   const SequenceRuns& runs, nn::ContextComm& comm);

}  // namespace limbeck::core
