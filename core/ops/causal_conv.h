// A convolution along the tokens of each channel by itself, and SiLU: what Mamba does to x, B and C (Gu & Dao 2023,
// "Mamba", section 3.4).
//
//     Var y = causal_conv(tape, x /*[T,C]*/, as_var(weight) /*[C,K]*/, as_var(bias) /*[C]*/, sequences);
#pragma once

#include <optional>

#include "core/ops/sequence_runs.h"
#include "core/tape.h"

namespace limbeck::core {

/// y[t,c] = silu(bias[c] + sum over k of weight[c,k] x[t-K+1+k,c]), K from 1 to 8: PyTorch's conv1d with as many groups
/// as channels. What is before the document's first token is 0. x is float32, float64 or bfloat16, beside which weight,
/// bias, their gradients and all sums are float32. The gradients of weight and bias add over the tokens in one order,
/// whatever the number of threads.
/// With `state`, whose rows [S,K-1,C] are of x's dtype, a sequence goes on from its row: the last K-1 values of x, the
/// latest last, zeros where its document has fewer. There is no gradient then.
Var causal_conv(Tape& tape, const Var& x /*[T,C]*/, const Var& weight /*[C,K]*/, const std::optional<Var>& bias /*[C]*/,
                const Sequences& sequences, const std::optional<SequenceState>& state = {});

/// The same of sequences that are cut over ranks, for this rank's tokens. Collective, forward and backward.
Var cut_causal_conv(Tape& tape, const Var& x /*[T,C]*/, const Var& weight /*[C,K]*/,
                    const std::optional<Var>& bias /*[C]*/, const SequenceRuns& runs, nn::ContextComm& comm);

}  // namespace limbeck::core
