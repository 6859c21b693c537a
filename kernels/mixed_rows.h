// The mean of several teachers' distributions, in logarithms: each is added in its turn, so that no more than one's
// logits lie beside the mean. Derivation: docs/gradients.md.
//
//     logits_maxima(cpu, rows, rows.student, maxima, indices);    // of each teacher, kernels/distillation.h
//     logits_sums(cpu, rows, maxima, maxima, sums);               // both over all parts of a vocabulary
//     mix_rows(cpu, rows, maxima, sums, shares, is_first, mixed);
#pragma once

#include "kernels/distillation.h"

namespace limbeck::kernels {

/// mixed [n,columns] = T log(exp(mixed / T) + share softmax(z / T)), z = rows.student [n,columns] of a teacher, T
/// rows.temperature; `is_first`: nothing is in `mixed` yet, which is then as lacking_logit. shares [n], 0 or more.
/// maxima [n] and sums [n,num_logits_sums] are of whole rows. A column that all teachers lack that have a share
/// is_lacking, and so is a row without a target. Columns from num_valid on are not written. T is float or double.
template <class D, class T>
void mix_rows(const D& device, const LogitsRows<T>& rows, const double* maxima, const double* sums,
              const double* shares, bool is_first, T* mixed);

}  // namespace limbeck::kernels
