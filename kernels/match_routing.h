// How far a student's routing is from its teacher's, token by token, for distillation (docs/gradients.md).
//
//     load_weights(cpu, teacher_selection, counts, sequence, weights, {T, E, K, S});
//     routing_distance(cpu, q, p, targets, weights, weight, distance, squares, T, E);
//     routing_distance_gradient(cpu, q, p, targets, weights, weight, dloss, dq, T, E);
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>

#include "device_set.h"
#include "kernels/aux_losses.h"
#include "kernels/distillation.h"

namespace limbeck::kernels {

/// weights [tokens] by which every expert that a sequence uses counts alike, whatever its load: of a token the sum over
/// its experts of 1 / (the sequence's assignments to it), times the sequence's tokens / the experts that it uses. Their
/// mean over a sequence is 1. `counts` [S,E] are those of count_assignments, of whole sequences.
template <class D>
void load_weights(const D& device, const std::int32_t* selection, const double* counts, const std::int32_t* sequence,
                  double* weights, const BalanceShape& shape);

/// distance [rows] = the weights' product times KL(p || q) of probabilities [rows,experts], and squares [rows], the
/// square of the length of its gradient with respect to logits whose softmax q is: weights times q - p. Sums in double;
/// 0 in rows whose target is -1. `token_weights` [rows], or null: 1 each. A q below the least normal number counts as
/// that in the distance. T is float or double.
template <class D, class T>
void routing_distance(const D& device, const T* q, const T* p, const std::int32_t* targets, const double* token_weights,
                      TokenWeight weight, double* distance, double* squares, std::int64_t rows, std::int64_t experts);

/// dq = -dloss[0] times the weights times p / q, 0 in rows whose target is -1.
template <class D, class T>
void routing_distance_gradient(const D& device, const T* q, const T* p, const std::int32_t* targets,
                               const double* token_weights, TokenWeight weight, const T* dloss, T* dq,
                               std::int64_t rows, std::int64_t experts);

/// Of one expert.
template <class T>
constexpr T positive(T probability) {
  constexpr T least = std::numeric_limits<T>::min();
  return probability < least ? least : probability;
}
template <class T>
constexpr double routing_term(T p, T q) {
  const auto of_teacher = static_cast<double>(p);
  return p > 0 ? of_teacher * (std::log(of_teacher) - std::log(static_cast<double>(positive(q)))) : 0;
}
template <class T>
constexpr double routing_square(T p, T q) {
  const double apart = static_cast<double>(q) - static_cast<double>(p);
  return apart * apart;
}

}  // namespace limbeck::kernels
