// The states of Mamba-2 along sequences, in chunks of tokens (core/ops/state_scan.h).
//
//     state_scan(cpu, problem, inputs, room, states, y);
//     state_scan_gradient(cpu, problem, inputs, dy, room, gradients);
//
// T is float, double or bf16; states, sums and arithmetic are in Acc<T>, each result rounded once. Derivation:
// docs/gradients.md.
#pragma once

#include <algorithm>
#include <cstdint>

#include "device_set.h"
#include "kernels/bf16.h"
#include "kernels/sequences.h"

namespace limbeck::kernels {

inline constexpr std::int64_t scan_chunk = 64;  // tokens
/// A sequence with a state and so few tokens is run token by token: that reads and writes its state once a token, and
/// takes no room.
inline constexpr std::int64_t scan_few_tokens = 16;

struct ScanProblem {
  Sequences sequences;
  std::int64_t num_heads = 0;    // H
  std::int64_t width = 0;        // P
  std::int64_t num_groups = 1;   // G, divides H: head h reads group h / (H / G)
  std::int64_t state_width = 0;  // N
  double least_step = 0;
  double most_step = 0;

  constexpr std::int64_t group_heads() const { return num_heads / num_groups; }
  constexpr std::int64_t padded_width() const { return (width + 31) / 32 * 32; }
  /// Of a head, in `room`.
  constexpr std::int64_t state_elements() const { return state_width * padded_width(); }
  /// Between chunks, and for sequences with states before and behind those.
  constexpr std::int64_t num_states() const {
    const std::int64_t within = sequences.tokens / scan_chunk;
    const std::int64_t around = std::min(sequences.number, sequences.tokens / (scan_few_tokens + 1));
    return sequences.slots == nullptr ? within : within + 2 * around;
  }
  /// A number for each token and head, in `room`.
  constexpr std::int64_t numbers() const { return (sequences.tokens * num_heads + 15) / 16 * 16; }
  /// Elements of `room`, forward and backward.
  constexpr std::int64_t room() const { return 3 * numbers() + num_states() * num_heads * state_elements(); }
  constexpr std::int64_t gradient_room() const {
    return 4 * numbers() + 2 * num_states() * num_heads * state_elements();
  }
};

template <class T>
struct ScanInputs {
  const T* x;                           // [T,H*P]
  const T* dt;                          // [T,H]
  const T* b;                           // [T,G*N]
  const T* c;                           // [T,G*N]
  const Acc<T>*dt_bias, *a_log, *skip;  // [H]
};

template <class T>
struct ScanGradients {
  T* x;                           // [T,H*P]
  T* dt;                          // [T,H]
  T* b;                           // [T,G*N]
  T* c;                           // [T,G*N]
  Acc<T>*dt_bias, *a_log, *skip;  // [H]
};

/// With s[t] = softplus(dt[t] + dt_bias) within the limits: h_t = exp(-exp(a_log) s_t) h_(t-1) + s_t x_t b_t^T and
/// y_t = h_t c_t + skip x_t, of each head. A sequence with a slot goes on from states [S,H,P,N], and leaves its own
/// there. `room` [problem.room()], on a boundary of 64 bytes, is to be written.
template <class D, class T>
void state_scan(const D& device, const ScanProblem& problem, const ScanInputs<T>& inputs, Acc<T>* room, Acc<T>* states,
                T* y);

/// Of sequences without states. Overwrites the gradients; sums over tokens, and over the heads of a group, have one
/// order whatever the number of threads. `room` [problem.gradient_room()].
template <class D, class T>
void state_scan_gradient(const D& device, const ScanProblem& problem, const ScanInputs<T>& inputs, const T* dy,
                         Acc<T>* room, const ScanGradients<T>& gradients);

}  // namespace limbeck::kernels
