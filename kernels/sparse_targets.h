// Passes over a chunk of a student's logits beside a teacher of which only a part is known: of each token's
// distribution the log-probabilities of some tokens, and that of all others together (a ghost bucket), or draws.
// Derivation: docs/gradients.md. Between the passes the row results may be reduced over the parts of a vocabulary.
//
//     logits_maxima(cpu, rows.logits, rows.logits.student, maxima, indices);       // then max over the parts
//     sparse_sums(cpu, rows, maxima, kept, sums);                                  // then sum over the parts
//     sparse_gradient(cpu, rows, kept, maxima, sums, ..., dlogits, parts);         // then sum over the parts
//     add_sparse_losses(cpu, rows, indices, sums, parts, ..., totals, each);
#pragma once

#include <cstdint>

#include "device_set.h"
#include "kernels/distillation.h"

namespace limbeck::kernels {

enum class SparseKind : std::uint8_t {
  Ghost,         // KL over the kept tokens and one outcome for all others, on both sides: at most the whole KL
  Renormalised,  // KL over the kept tokens, both sides scaled to sum 1 there
  Sampled,       // of draws: an unbiased estimate of the whole KL and its gradient
};

/// At one temperature. Of Sampled, the share of the draws and the distribution's entropy.
template <class T>
struct SparseSide {
  const T* log_p =
      nullptr;  // [n,width]: of the kept tokens, of the whole distribution; of Sampled the shares themselves
  const T* rest = nullptr;  // [n]: the logarithm of the others' probability, -infinity: there is none; of Sampled the
                            // entropy
};

template <class T>
struct SparseRows {
  LogitsRows<T> logits;  // without a teacher's
  SparseKind kind = SparseKind::Ghost;
  std::int64_t width = 0;                   // most kept tokens of a row
  const std::int32_t* ids = nullptr;        // [n,width] of the whole vocabulary, rising; -1 behind a row's last
  SparseSide<T> plain;                      // at temperature 1
  SparseSide<T> tempered;                   // at logits.temperature; the same where that is 1
  const std::int32_t* likeliest = nullptr;  // [n]: the teacher's most likely token
  const T* target_loss = nullptr;           // [n]: -log p(target) of the teacher
};

/// Row results of sparse_sums, [n,num_sparse_sums]. z are logits less their row's maximum.
enum SparseSum : std::int64_t {
  SparseRest,        // sum exp(z) of tokens that are not kept
  SparseKept,        // of those that are
  SparseDifference,  // sum p (log p - z) over the kept tokens; of Sampled sum p (-z)
  SparseMass,        // sum p over them
  SparseTempered,    // the same four of z / temperature from here on
  SparseTarget = 8,  // z of the target, if it is in this part
  num_sparse_sums,
};

/// kept [n,width]: z of the kept tokens of this part. sums [n,num_sparse_sums]; maxima are of whole rows.
template <class D, class T>
void sparse_sums(const D& device, const SparseRows<T>& rows, const double* student_max, T* kept, double* sums);

/// dlogits [n,columns] = weight (alpha (q - target) + (1 - alpha) T g), 0 in padding and skipped rows, where g is, of
/// kept tokens and of others: Ghost: q_T - p_T and q_T (1 - rest of p_T / rest of q_T); Renormalised: the difference of
/// the scaled shares and 0; Sampled: q_T - share and q_T. dlogits may be null, or rows.logits.student where G is T; G
/// is T, or bf16 with T float, rounded once. parts [n,num_gradient_sums], of whose SumMin only the kept tokens are; 0
/// of Sampled.
template <class D, class T, class G>
void sparse_gradient(const D& device, const SparseRows<T>& rows, const T* kept, const double* student_max,
                     const double* sums, double alpha, TokenWeight weight, G* dlogits, double* parts);

/// As add_losses (kernels/distillation.h): LossKl is that of Ghost also where Renormalised is trained by, of Sampled
/// the estimate; LossSumMin counts all others as one outcome. indices [n]: of the student's maximum.
template <class D, class T>
void add_sparse_losses(const D& device, const SparseRows<T>& rows, const double* indices, const double* sums,
                       const double* parts, double alpha, TokenWeight weight, double* totals, double* each);

}  // namespace limbeck::kernels
