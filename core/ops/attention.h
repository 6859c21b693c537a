// Causal attention over a ragged batch. Keys and values may be a cache: their number differs from the queries'.
//
//     const AttentionShape shape{.num_heads = 9, .num_kv_heads = 3, .width = 64, .value_width = 64, .scale = 0.125};
//     Var y = attention(tape, q, k, v, shape, layout);   // [Tq,9*64], [Tk,3*64], [Tk,3*64] -> [Tq,9*64]
#pragma once

#include <optional>

#include "core/tape.h"

namespace limbeck::core {

struct AttentionShape {
  std::int64_t num_heads = 0;     // H
  std::int64_t num_kv_heads = 0;  // G, divides H
  std::int64_t width = 0;         // D, of a query and a key head
  std::int64_t value_width = 0;   // Dv, of a value head
  double scale = 1;               // of the scores, usually 1/sqrt(D)
  std::int64_t window = 0;        // a query sees so many positions, of which its own is the last; 0: no window
  /// v is k, which take no gradient then: a value is the first Dv channels of its key.
  bool values_in_keys = false;
};

/// Segment n is queries [query_offsets[n], query_offsets[n+1]) and keys [key_offsets[n], key_offsets[n+1]). A query
/// sees a key of its own segment iff their documents are equal and the key's position is not above the query's and
/// within its window.
struct AttentionLayout {
  Tensor query_offsets;   // [N+1] int64
  Tensor key_offsets;     // [N+1] int64
  Tensor query_position;  // [Tq] int32
  Tensor key_position;    // [Tk] int32
  Tensor query_document;  // [Tq] int32
  Tensor key_document;    // [Tk] int32
  /// None, or [Tk/64] int64, for values that take no gradient: k and v [P*64,...] are pages of 64 keys, of which keys
  /// [64 i, 64 (i+1)) are page key_pages[i]. A segment that has queries begins with a page.
  Tensor key_pages = {};
  /// None, or [R+1] int64 where queries are keys and query i of run [run_offsets[r], run_offsets[r+1]) sees those of
  /// its run up to itself (and within its window), which then is known on the host too: libraries know attention in
  /// this form.
  Tensor run_offsets = {};
  std::int64_t longest_run = 0;
};

/// The widest heads where a memory is whose values lie in the keys.
std::int64_t widest_attention(const MemoryPtr& memory);

/// softmax(scale q k^T) v for each head; query head h reads key/value head h / (H/G). A query that sees no key gives 0.
/// A head's sink is the logit of one more key, which all queries see and which has no value (gpt-oss); sinks and their
/// gradient are float32 beside bfloat16.
/// Saves its inputs, the output and [Tq,H] numbers: memory is linear in the length. Float32, float64 or bfloat16
/// (scores, softmax and sums in float32). The same bits on every run with equal threads. Formulas: docs/gradients.md;
/// Dao, "FlashAttention-2" (2023).
Var attention(Tape& tape, const Var& q /*[Tq,H*D]*/, const Var& k /*[Tk,G*D]*/, const Var& v /*[Tk,G*Dv]*/,
              const AttentionShape& shape, const AttentionLayout& layout, const std::optional<Var>& sinks /*[H]*/ = {});

}  // namespace limbeck::core
