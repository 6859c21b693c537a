// Token embeddings: rows of a table.
//
//     Var x = embedding(tape, batch.tokens /*[T] int32*/, as_var(embed_weight) /*[V,C]*/);     // [T,C]
#pragma once

#include "core/tape.h"

namespace limbeck::core {

/// The rows of a table that this rank holds, of a vocabulary that is cut.
struct VocabularyPart {
  std::int64_t first = 0;   // global index of the weight's first row
  std::int64_t total = -1;  // the whole vocabulary; -1: the weight's rows
};

/// weight[tokens[t] - part.first], 0 where another rank holds that row. The weight is float32 or float64, or
/// bfloat16, which is widened to float32 and has a float32 gradient. The gradient is added in the order of the tokens,
/// whatever the number of threads. Throws at a token that is not in the vocabulary.
Var embedding(Tape& tape, const Tensor& tokens /*[T] int32*/, const Var& weight /*[V_local,C]*/,
              const VocabularyPart& part = {});

}  // namespace limbeck::core
