// A student's distributions beside those of a teacher of other tokens: each of both sorted by itself, from the
// likeliest token on, the shorter one filled up with zeros, and what they differ by, rank by rank (Boizard et al. 2024,
// "Towards Cross-Tokenizer Distillation: the Universal Logit Distillation Loss for LLMs", section 3). Derivation:
// docs/gradients.md.
//
//     logits_maxima(cpu, rows.part, ...), logits_sums(cpu, rows.part, ...);          // then over the parts
//     sorted_gradient(cpu, rows, 0.1, maxima, sums, weight, dlogits, of_rows, room);
//     column_sums(cpu, of_rows, /*add=*/true, totals, n, num_sorted_columns);
#pragma once

#include <cstddef>
#include <cstdint>

#include "device_set.h"
#include "kernels/distillation.h"

namespace limbeck::kernels {

/// What is known of a row.
enum SortedColumn : std::int64_t {
  SortedPairs,     // 1 where the teacher has a row too
  SortedDistance,  // sum over the ranks |q - p|, 0 to 2
  num_sorted_columns,
};

/// Of one side all columns of a vocabulary, though it be cut over ranks.
template <class T>
struct WholeRows {
  const T* logits = nullptr;  // [rows,columns]
  std::int64_t columns = 0;
  std::int64_t num_valid = 0;  // columns from here on are padding
};

template <class T>
struct SortedRows {
  LogitsRows<T> part;  // of the student, without a teacher's logits
  WholeRows<T> student, teacher;
  const std::int32_t* pair_of = nullptr;  // [part.n]: the teacher's row, plus first_pair; -1: there is none
  std::int64_t first_pair = 0;
};

/// Bytes of the device's memory that sorted_gradient needs beside.
template <class D, class T>
std::int64_t sorting_room(const D& device, const SortedRows<T>& rows);

/// dlogits [n,part.columns] = weight (ce (q - target) + (1 - ce) q (s - sum of q s)), s the sign of q - p at the rank
/// that the token has; without a pair weight ce (q - target). Of equal logits the lower column comes first. 0 in
/// padding and skipped rows; dlogits may be null, or part.student where G is T. student_max and sums
/// [n,num_logits_sums] are of whole rows. of_rows [n,num_sorted_columns]. G is T, or bf16 with T float, rounded once.
template <class D, class T, class G>
void sorted_gradient(const D& device, const SortedRows<T>& rows, double ce, const double* student_max,
                     const double* sums, TokenWeight weight, G* dlogits, double* of_rows, std::byte* room);

}  // namespace limbeck::kernels
