// Differentiable forms of nn::TensorComm: where a computation goes over to parts of a tensor and comes back. Between
// `enter` and `exit` every rank of the group works with its part of a weight on all tokens; between `scatter` and
// `gather` with whole weights on its part of the tokens. Outside, every rank holds the same values.
//
//     const Var entered = enter(tape, x, comm);                                   // x [T,C]
//     Var y = exit(tape, linear(tape, linear(tape, entered, up), down), comm);    // up [F_local,C], down [C,F_local]
//
// Sequence parallelism leaves each rank a share of the tokens outside too, and what a rank gathered to multiply with
// its part of a weight is not kept for the backward:
//
//     const Var entered = enter_sequence(tape, x, num_tokens, comm);              // x [T_local,C], entered [T,C]
//     const Var hidden = linear(tape, entered, up);
//     gather_again(tape, entered, x, comm);                                       // behind the last that reads it
//     Var y = exit_sequence(tape, linear(tape, hidden, down), comm);              // [T_local,C]
//
// A product whose sum is next may have some of its tokens on their way while it makes those of others:
//
//     Var y = linear_exit(tape, hidden, down, Products::AsActivations, comm, /*chunks=*/4);
//
// and one whose factor is gathered first, some on their way here while it multiplies others; backward likewise:
//
//     const std::array weights = {up, gate};
//     const std::vector<Var> hidden = enter_linear(tape, x, weights, Products::AsActivations, comm, /*chunks=*/4);
//     const std::vector<Var> of_share =
//         enter_sequence_linear(tape, share, num_tokens, weights, Products::AsActivations, comm, /*chunks=*/4);
//
// Every rank calls these equally often and in the same order, forward and backward. With one rank they return what they
// were given. The communicator outlives the tape.
#pragma once

#include <span>
#include <vector>

#include "core/communicators.h"
#include "core/ops/linear.h"
#include "core/tape.h"

namespace limbeck::core {

/// Forward: x itself. Backward: the sum of the ranks' gradients.
Var enter(Tape& tape, const Var& x, nn::TensorComm& comm);

/// Forward: the sum of the ranks' parts, which `x` is overwritten with where nothing else refers to it. Backward: the
/// gradient itself.
Var exit(Tape& tape, Var x, nn::TensorComm& comm);

/// Forward: this rank's rows of x [T,...]. Backward: the rows of all ranks.
Var scatter(Tape& tape, const Var& x, nn::TensorComm& comm);
/// The same of a tensor that no gradient flows into.
Tensor scatter(const Tensor& x, const nn::TensorComm& comm);

/// Forward: the rows of all ranks [T,...]. Backward: this rank's.
Var gather(Tape& tape, const Var& rows, std::int64_t num_rows, nn::TensorComm& comm);

/// Forward: the rows of all ranks [T,...]. Backward: this rank's rows of the sum of the ranks' gradients.
Var enter_sequence(Tape& tape, const Var& rows, std::int64_t num_rows, nn::TensorComm& comm);

/// Frees what enter_sequence gave for `rows`, once nothing in the forward reads it any more; the backward gathers it
/// again for the steps that saved it. Where a recomputed block runs again, its backward is next and it stays.
void gather_again(Tape& tape, const Var& entered, const Var& rows, nn::TensorComm& comm);

/// Forward: this rank's rows of the sum of the ranks' x [T,...]. Backward: the rows of all ranks' gradients.
Var exit_sequence(Tape& tape, const Var& x, nn::TensorComm& comm);

/// enter, and linear without a bias of what it gives by each of the weights. Backward the gradient of up to `chunks`
/// runs of the tokens is made by all products, one of which is summed over the ranks while that of the next is made,
/// and the weights get theirs beside the last, each by one product as without. The ranks' parts of an entry are added
/// as they are without.
std::vector<Var> enter_linear(Tape& tape, const Var& x /*[T,in]*/, std::span<const Var> weights /*[out,in]*/,
                              Products products, nn::TensorComm& comm, std::int64_t chunks);
/// The same of enter_sequence, with gather_again, by up to `chunks` runs of each rank's share of the tokens; forward
/// one is gathered while all products of the run before are made. Rows are in the order of the tokens, as without.
/// Backward what gather_again frees is on its way beside the first products.
std::vector<Var> enter_sequence_linear(Tape& tape, const Var& rows /*[T_local,in]*/, std::int64_t num_rows,
                                       std::span<const Var> weights /*[out,in]*/, Products products,
                                       nn::TensorComm& comm, std::int64_t chunks);

/// exit, or exit_sequence, of linear without a bias; but of up to `chunks` runs of the tokens (of exit_sequence of each
/// rank's share of them) one is summed while the next is multiplied. The ranks' parts of an entry are added as they are
/// without. Backward exit_sequence gathers the gradient of one run while that of the run before is multiplied, and the
/// weight gets its own by one product of the whole.
Var linear_exit(Tape& tape, const Var& x /*[T,in]*/, const Var& weight /*[out,in]*/, Products products,
                nn::TensorComm& comm, std::int64_t chunks);
Var linear_exit_sequence(Tape& tape, const Var& x /*[T,in]*/, const Var& weight /*[out,in]*/, Products products,
                         nn::TensorComm& comm, std::int64_t chunks);

}  // namespace limbeck::core
