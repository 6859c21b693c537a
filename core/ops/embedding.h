// Token embeddings: rows of a table.
//
//     Var x = embedding(tape, batch.tokens /*[T] int32*/, as_var(embed_weight) /*[V,C]*/);     // [T,C]
#pragma once

#include <optional>

#include "core/tape.h"

namespace limbeck::core {

/// The rows of a table that this rank holds, of a vocabulary that is cut.
struct VocabularyPart {
  std::int64_t first = 0;   // global index of the weight's first row
  std::int64_t total = -1;  // the whole vocabulary; -1: the weight's rows
};

/// weight[tokens[t] - part.first], 0 where another rank holds that row, of a dtype: that of the weight's sums, or, of
/// float32 and bfloat16, any. The weight is float32, float64 or bfloat16, of which the gradient is float32. The
/// gradient is added in the order of the tokens, whatever the number of threads. Throws at a token that is not in the
/// vocabulary.
Var embedding(Tape& tape, const Tensor& tokens /*[T] int32*/, const Var& weight /*[V_local,C]*/,
              const VocabularyPart& part = {}, std::optional<DType> dtype = {});

}  // namespace limbeck::core
