// Causal attention with grouped key/value heads over a ragged batch, in tiles: no array of queries times keys exists.
// Dao, "FlashAttention-2" (2023), algorithms 1 and 2.
//
//     attention_forward(cpu, problem, q, k, v, out, logsumexp);
//     attention_backward(cpu, problem, q, k, v, out, logsumexp, dout, dq, dk, dv);
//     attention_sink_gradient(cpu, problem, sinks, out, logsumexp, dout, /*add=*/true, dsinks);   // where there are
//     sinks
#pragma once

#include <cstdint>

#include "device_set.h"
#include "kernels/bf16.h"

namespace limbeck::kernels {

/// Keys of a page.
inline constexpr std::int64_t attention_page = 64;

/// By positions alone: a query sees keys at its own position and at so many before it.
struct AttentionReach {
  static constexpr std::uint32_t all = 0xffffffffU;
  std::uint32_t before;

  constexpr bool holds(std::int32_t query, std::int32_t key) const {
    return key <= query && distance(query, key) <= before;
  }
  /// Of what has bounds min_position and max_position: some query may see some key.
  template <class Bounds>
  constexpr bool may_hold(const Bounds& queries, const Bounds& keys) const {
    return keys.min_position <= queries.max_position &&
           (keys.max_position >= queries.min_position || distance(queries.min_position, keys.max_position) <= before);
  }
  /// Every query sees every key.
  template <class Bounds>
  constexpr bool holds_all(const Bounds& queries, const Bounds& keys) const {
    return keys.max_position <= queries.min_position && distance(queries.max_position, keys.min_position) <= before;
  }
  /// Of a key that is not behind the query.
  static constexpr std::uint32_t distance(std::int32_t query, std::int32_t key) {
    return static_cast<std::uint32_t>(query) - static_cast<std::uint32_t>(key);
  }
};

/// Segment n holds queries [query_offsets[n], query_offsets[n+1]) and keys [key_offsets[n], key_offsets[n+1]). A query
/// at position p sees a key of its segment if their documents are equal and the key's position is in (p - window, p],
/// or not above p where there is no window. Query head h reads key/value head h / (num_heads / num_kv_heads). All
/// pointers are on the device.
struct AttentionProblem {
  std::int64_t num_heads = 0;     // H
  std::int64_t num_kv_heads = 0;  // G, divides H
  std::int64_t width = 0;         // D
  std::int64_t value_width = 0;   // Dv
  double scale = 1;
  bool values_in_keys = false;                   // forward alone: a value is the first Dv channels of its key, v is k
  std::int64_t window = 0;                       // positions, of which the query's own is one; 0: none
  std::int64_t num_segments = 0;                 // N
  std::int64_t num_queries = -1;                 // Tq and Tk, which a host cannot read off a device's offsets; a CPU
  std::int64_t num_keys = -1;                    // does without
  const std::int64_t* query_offsets = nullptr;   // [N+1]
  const std::int64_t* key_offsets = nullptr;     // [N+1]
  const std::int32_t* query_position = nullptr;  // [Tq]
  const std::int32_t* key_position = nullptr;    // [Tk]
  const std::int32_t* query_document = nullptr;  // [Tq]
  const std::int32_t* key_document = nullptr;    // [Tk]
  /// Forward alone: the rows of k and v are pages of keys, and key i lies in page key_pages[i / attention_page]; a
  /// segment that has queries begins with a page. None: key i is row i.
  const std::int64_t* key_pages = nullptr;  // [ceil(Tk / attention_page)]
  /// Where it is known: queries are keys, and query i of run [run_offsets[r], run_offsets[r+1]) sees those of its run
  /// up to itself, or of the window's positions, which says no more than the above.
  std::int64_t num_runs = 0;                  // R
  std::int64_t longest_run = 0;               // no run is longer
  const std::int64_t* run_offsets = nullptr;  // [R+1]

  constexpr AttentionReach reach() const {
    return {window > 0 && window <= AttentionReach::all ? static_cast<std::uint32_t>(window - 1) : AttentionReach::all};
  }
  /// Values from a head to the next in a row of v.
  constexpr std::int64_t value_pitch() const { return values_in_keys ? width : value_width; }
  /// Of k and v.
  constexpr std::int64_t row_of_key(std::int64_t i) const {
    return key_pages == nullptr ? i : key_pages[i / attention_page] * attention_page + i % attention_page;
  }
};

/// The widest heads that attention_forward takes where values lie in the keys. Others may be 256 wide on a GPU.
template <class D>
std::int64_t attention_widest(const D& device);

/// q [Tq,H*D], k [Tk,G*D], v [Tk,G*Dv], or k again -> out [Tq,H*Dv], logsumexp [Tq,H] of the scaled scores. A query
/// that sees no key gives 0 and -infinity. T is float, double or bf16; scores, probabilities and sums are of Acc<T>. In
/// bf16 a probability is rounded to be a factor of v, and `out` once, behind its sum; what the probabilities are
/// divided by is the sum of those that were not rounded. `sinks` [H], or none, are finite logits of keys that all
/// queries of a head see and that have no value (gpt-oss; Xiao et al. 2023, "Efficient streaming language models with
/// attention sinks"): they are part of logsumexp, which then is never infinite.
template <class D, class T>
void attention_forward(const D& device, const AttentionProblem& problem, const T* q, const T* k, const T* v, T* out,
                       Acc<T>* logsumexp, const Acc<T>* sinks = nullptr);

/// `out` [R,Dv] and `logsumexp` [R] of some keys, R = Tq H, become those of these and of more: what attention_forward
/// gives of two sets of keys is the mean of both, weighted by e^logsumexp. `out` is of Acc<T>, for it is a sum over
/// many sets. A row that saw no key of either stays 0 and -infinity.
template <class D, class T>
void attention_merge(const D& device, const T* more, const Acc<T>* more_logsumexp, Acc<T>* out, Acc<T>* logsumexp,
                     std::int64_t rows, std::int64_t value_width);

/// Adds the gradients to dq [Tq,H*D], dk [Tk,G*D], dv [Tk,G*Dv], which are sums over many tiles and so of Acc<T>. In
/// bf16 probabilities and the gradients of scores are rounded to be factors. Sinks change nothing but `out` and
/// logsumexp, nor do keys that are elsewhere: with `out` and logsumexp of all keys these give their part.
template <class D, class T>
void attention_backward(const D& device, const AttentionProblem& problem, const T* q, const T* k, const T* v,
                        const T* out, const Acc<T>* logsumexp, const T* dout, Acc<T>* dq, Acc<T>* dk, Acc<T>* dv);

/// dsinks[h] = -Σ_i e^(sinks[h] - logsumexp[i,h]) Σ_c dout[i,h,c] out[i,h,c] over the queries, in one order whatever
/// the number of threads: over blocks of queries, then over the blocks. `add` adds to dsinks.
template <class D, class T>
void attention_sink_gradient(const D& device, const AttentionProblem& problem, const Acc<T>* sinks, const T* out,
                             const Acc<T>* logsumexp, const T* dout, bool add, Acc<T>* dsinks);

}  // namespace limbeck::kernels
