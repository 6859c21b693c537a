// Cross-entropy on logits that are there as a tensor, such as those of a classifier. A language model's are never all
// there at once: core/ops/head_loss.h.
//
//     Var loss = cross_entropy(tape, logits /*[T,V]*/, targets /*[T] int32*/);
#pragma once

#include "core/tape.h"

namespace limbeck::core {

/// -1/n Σ_t log softmax(logits[t])[targets[t]], [1], over the t with a target (not -1): n is `global_count`, the
/// targets of all ranks, or those here where it is 0 (then one or more). float32 or float64; sums across the row are in
/// float64. Throws at a target that is neither -1 nor in [0,V). Reads the targets and the loss's gradient on the host.
Var cross_entropy(Tape& tape, const Var& logits /*[T,V]*/, const Tensor& targets /*[T] int32*/,
                  std::int64_t global_count = 0);

}  // namespace limbeck::core
