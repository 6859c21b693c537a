// Dropout (Srivastava et al. 2014), the same under every layout.
//
//     const RandomStream noise(seed, step, "layers.3.dropout");
//     Var y = dropout(tape, x /*[T,C]*/, batch.global_index, 0.1, noise);      // in training alone
#pragma once

#include "core/random.h"
#include "core/tape.h"

namespace limbeck::core {

/// x[t,...] / (1 - probability), or 0 with this probability (in [0,1)): which, is a function of the stream, the row's
/// global index and the place in the row, so the same in every layout and replay. With 0, x itself. float32 or float64.
Var dropout(Tape& tape, const Var& x /*[T,...]*/, const Tensor& global_index /*[T] int64*/, double probability,
            const RandomStream& noise);

}  // namespace limbeck::core
