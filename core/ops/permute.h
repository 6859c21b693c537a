// Copies of tokens sorted by expert, and the weighted sum back. Every assignment has its row, except those of no expert
// here: that were dropped (core/ops/capacity.h), or whose expert is another rank's. Rows at the end may be nobody's:
// zeros.
//
//     Permutation order = make_permutation(routing.selection, num_experts);
//     Var rows = permute(tape, x /*[T,C]*/, order);                              // [N,C], N = T*K
//     Var y = unpermute(tape, experts(rows), routing.weights, order);            // [T,C]
#pragma once

#include <optional>

#include "core/tape.h"

namespace limbeck::core {

/// Assignment a = t*K + k is the k-th choice of token t; rows are sorted by expert, then by assignment.
struct Permutation {
  std::int64_t num_tokens = 0;         // T
  std::int64_t experts_per_token = 0;  // K
  std::int64_t num_rows = 0;           // N
  Tensor counts;                       // [E] int64: rows of each expert
  Tensor row_of;                       // [T*K] int32: the row of an assignment, -1: it has none
  Tensor source;                       // [T*K] int32: the assignment of a row, -1: nobody's

  /// [E+1] int64: rows [offsets[e], offsets[e+1]) are of expert e.
  Tensor offsets() const;
};

/// The selection by other numbers of experts: number[e] for expert e, -1 for an assignment that has none.
Tensor renumbered(const Tensor& selection /*[T,K] int32*/, const Tensor& number /*[E] int32*/);

/// Whether a selection may have assignments without a row: those of expert -1.
enum class Drops : std::uint8_t { None, Some };

/// Throws at an expert that is not in [0, num_experts). `num_rows`: as many as have an expert, or more; else T*K.
Permutation make_permutation(const Tensor& selection /*[T,K] int32*/, std::int64_t num_experts,
                             Drops drops = Drops::None, std::optional<std::int64_t> num_rows = {});

/// rows[r] = x[source[r] / K]. float32, float64 or bfloat16.
Var permute(Tape& tape, const Var& x /*[T,C]*/, const Permutation& order);

/// y[t] = Σ_k weights[t,k] rows[row_of[t,k]], in the order of k; one without a row adds nothing. The weights are of the
/// rows' sum type.
Var unpermute(Tape& tape, const Var& rows /*[N,C]*/, const Var& weights /*[T,K]*/, const Permutation& order);

}  // namespace limbeck::core
