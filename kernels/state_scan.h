// The states of Mamba-2 along sequences, in chunks of tokens (core/ops/state_scan.h).
//
//     state_scan(cpu, problem, inputs, room, states, y);
//     state_scan_gradient(cpu, problem, inputs, dy, room, gradients);
//
// Of sequences that are cut into runs, which have slots 0 to R-1 (core/ops/sequence_runs.h):
//
//     state_scan_parts(cpu, problem, inputs, nullptr, room, parts);      // then those of all runs are brought together
//     carry_states(cpu, chains, /*backwards=*/false, parts, problem, first, R, states);
//     state_scan(cpu, problem, inputs, room, states, y);
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
  bool few_by_tokens = true;  // false: sequences with a state are in chunks, however few tokens they have

  constexpr std::int64_t group_heads() const { return num_heads / num_groups; }
  constexpr std::int64_t padded_width() const { return (width + 31) / 32 * 32; }
  /// Of a head, in `room`.
  constexpr std::int64_t state_elements() const { return state_width * padded_width(); }
  /// Between chunks, and for sequences with states before and behind those.
  constexpr std::int64_t num_states() const {
    const std::int64_t within = sequences.tokens / scan_chunk;
    const std::int64_t least = few_by_tokens ? scan_few_tokens + 1 : 1;
    const std::int64_t around = std::min(sequences.number, sequences.tokens / least);
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

/// Overwrites the gradients; sums over tokens, and over the heads of a group, have one order whatever the number of
/// threads. `room` [problem.gradient_room()]. Sequences with slots, none of them `few_by_tokens`, go on from `states`
/// [S,H,P,N], and rows of `dstates` [S,H,P,N], the gradients of what they leave, become those of what they go on from;
/// rows of sequences without tokens stay as they are.
template <class D, class T>
void state_scan_gradient(const D& device, const ScanProblem& problem, const ScanInputs<T>& inputs, const T* dy,
                         Acc<T>* room, const ScanGradients<T>& gradients, const Acc<T>* states = nullptr,
                         Acc<T>* dstates = nullptr);

/// What each sequence with a slot, none of them `few_by_tokens`, leaves where it begins with no state; or, with `dy`,
/// the gradient of the state that it begins with where that of what it leaves is 0: row parts[slot] [H,P*N+1], whose
/// last number is what the sequence leaves of a state before it, 0 where a document ends within. Rows of sequences
/// without tokens stay as they are. `room` [problem.room()].
template <class D, class T>
void state_scan_parts(const D& device, const ScanProblem& problem, const ScanInputs<T>& inputs, const T* dy,
                      Acc<T>* room, Acc<T>* parts);

/// Rows of parts in chains: each goes on from the one before it.
struct ScanChains {
  std::int64_t number = 0;                // M
  const std::int64_t* offsets = nullptr;  // [M+1]: chain m is rows[offsets[m]] to rows[offsets[m+1] - 1]
  const std::int64_t* rows = nullptr;
};

/// states[r - first] [H,P*N], for the rows r = first to first + count - 1 that are in a chain: the state that row r of
/// `parts` [.,H,P*N+1] goes on from, 0 at a chain's beginning; or, `backwards`, the gradient of what it leaves, 0 at a
/// chain's end. Each chain is gone along in its order, whatever the number of threads. A is float or double.
template <class D, class A>
void carry_states(const D& device, const ScanChains& chains, bool backwards, const A* parts, const ScanProblem& problem,
                  std::int64_t first, std::int64_t count, A* states);

}  // namespace limbeck::kernels
