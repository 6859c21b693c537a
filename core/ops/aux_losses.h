// The router's auxiliary losses, scalars of shape [1] that are added to the loss.
//
//     const Tensor counts = sequence_counts(routing.selection, batch.sequence, num_sequences, num_experts, DType::F32);
//     loss = add(tape, loss, balance_loss(tape, routing.probabilities, counts, batch.sequence, 2, weight));
//     loss = add(tape, loss, z_loss(tape, logits, weight));
//
// The caller's weight holds the coefficient and every mean: coefficient / (global sequences * MoE layers) for the
// balance loss, coefficient / (global tokens * MoE layers) for the z-loss. Gradients are sums over ranks.
//
// `squares`, [1] float64: if it is defined, the squares of the loss's gradient with respect to logits are added to it,
// once (not again in a replay). These are the z-loss's own logits, of a balance loss those whose softmax the
// probabilities are.
#pragma once

#include "core/communicators.h"
#include "core/tape.h"

namespace limbeck::core {

/// [S,E] of `dtype`, float32 or float64: how many assignments of each sequence go to each expert. Of sequences that are
/// cut over ranks, the sum over them is what the losses below take.
Tensor sequence_counts(const Tensor& selection /*[T,K] int32*/, const Tensor& sequence /*[T] int32, below S*/,
                       std::int64_t num_sequences, std::int64_t num_experts, DType dtype);

/// weight * Σ_sequences E Σ_e f_e P_e: f_e the share of the sequence's assignments that expert e got (a constant), P_e
/// the mean of its probability over the sequence's tokens, of which those here count (Fedus et al. 2021; per sequence
/// as in DeepSeek-V2). float32 or float64.
Var balance_loss(Tape& tape, const Var& probabilities /*[T,E]*/, const Tensor& counts /*[S,E]*/,
                 const Tensor& sequence /*[T] int32, below S*/, std::int64_t experts_per_token, double weight,
                 const Tensor& squares = {});

/// The same with f and P over all tokens of the ranks that share a batch, which the sum over `comm` counts: weight
/// holds 1 / global tokens in the place of 1 / global sequences, and one micro-batch is the whole of a rank's share of
/// a step. Every rank calls it, also with no token; the loss is this rank's part.
Var batch_balance_loss(Tape& tape, const Var& probabilities /*[T,E]*/, const Tensor& selection /*[T,K] int32*/,
                       nn::BatchComm& comm, double weight, const Tensor& squares = {});

/// weight * Σ_t logsumexp(logits[t])² (Zoph et al. 2022, "ST-MoE"). float32 or float64.
Var z_loss(Tape& tape, const Var& logits /*[T,E]*/, double weight, const Tensor& squares = {});

}  // namespace limbeck::core
