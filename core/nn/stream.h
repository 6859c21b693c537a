// The residual stream between the layers of a model, as the ranks of a tensor group hold it: whole on each of them, or,
// with Pass::sequence_parallel, each has its share of the tokens (core/slice.h), of T_local. The layers say what they
// need of the stream; these exchange accordingly.
//
//     const Var entered = enter_stream(tape, pass, normed);                  // [T,C]
//     const Var hidden = core::linear(tape, entered, as_var(*up));           // up: this rank's part
//     end_of_reads(tape, pass, entered, normed);
//     return exit_stream(tape, pass, core::linear(tape, hidden, as_var(*down)));
//
// enter_projected and exit_projected (core/nn/projected.h) are these with their products.
#pragma once

#include "core/nn/pass.h"
#include "core/ops/tensor_exchange.h"

namespace limbeck::nn {

/// The stream's tokens [T,C], for products with this rank's part of a weight.
inline Var enter_stream(Tape& tape, const Pass& pass, const Var& x) {
  TensorComm& ranks = *pass.comms.tensor;
  return pass.sequence_parallel ? core::enter_sequence(tape, x, pass.batch.num_tokens(), ranks)
                                : core::enter(tape, x, ranks);
}

/// Behind the last product in the forward that reads what enter_stream gave for `x`.
inline void end_of_reads(Tape& tape, const Pass& pass, const Var& entered, const Var& x) {
  if (pass.sequence_parallel) core::gather_again(tape, entered, x, *pass.comms.tensor);
}

/// The sum of the ranks' parts [T,C], for the stream.
inline Var exit_stream(Tape& tape, const Pass& pass, Var parts) {
  TensorComm& ranks = *pass.comms.tensor;
  return pass.sequence_parallel ? core::exit_sequence(tape, parts, ranks) : core::exit(tape, std::move(parts), ranks);
}

/// This rank's share of the stream's tokens [T_local,C], for whole weights.
inline Var share_of_stream(Tape& tape, const Pass& pass, const Var& x) {
  return pass.sequence_parallel ? x : core::scatter(tape, x, *pass.comms.tensor);
}

/// The ranks' shares of the tokens [T_local,C], for the stream.
inline Var stream_of_shares(Tape& tape, const Pass& pass, const Var& share) {
  return pass.sequence_parallel ? share : core::gather(tape, share, pass.batch.num_tokens(), *pass.comms.tensor);
}

/// Of a column of all tokens [T,...], the rows that belong to the stream here.
inline Tensor rows_of_stream(const Pass& pass, const Tensor& column) {
  return pass.sequence_parallel ? core::scatter(column, *pass.comms.tensor) : column;
}

/// All tokens [T,...] of what was made of the stream token by token, for whoever needs whole sequences; its gradient is
/// whole on every rank.
inline Var whole_sequences(Tape& tape, const Pass& pass, const Var& x) {
  return pass.sequence_parallel ? core::gather(tape, x, pass.batch.num_tokens(), *pass.comms.tensor) : x;
}

}  // namespace limbeck::nn
