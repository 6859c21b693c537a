// Token embeddings: rows of a table.
//
//     Var x = embedding(tape, batch.tokens /*[T] int32*/, as_var(embed_weight) /*[V,C]*/);     // [T,C]
#pragma once

#include "core/tape.h"

namespace limbeck::core {

/// weight[tokens[t]]. The weight is float32 or float64, or, frozen, bfloat16, which is widened to float32. The gradient
/// is added in the order of the tokens, whatever the number of threads. Throws at a token that is not in [0,V).
Var embedding(Tape& tape, const Tensor& tokens /*[T] int32*/, const Var& weight /*[V,C]*/);

}  // namespace limbeck::core
