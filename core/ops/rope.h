// Rotary position embedding, half-split form (Hugging Face's rotate_half; Su et al. 2021). The angles are the same in
// every layer, so their table is made once.
//
//     RopeTable table = make_rope_table(memory, DType::F32, config.max_positions, config.head_width, config.rope_base);
//     auto [q, k] = rope(tape, linear(tape, x, wq), linear(tape, x, wk), batch.position, table);
#pragma once

#include <span>
#include <utility>
#include <vector>

#include "core/tape.h"

namespace limbeck::core {

struct RopeTable {
  Tensor cos;  // [P,D/2] of position * frequency[i], computed in double
  Tensor sin;  // [P,D/2]
};

/// base^(-2i/D) for i < D/2; D, the head width, is even.
std::vector<double> rope_frequencies(std::int64_t head_width, double base);

/// For positions 0 to num_positions - 1, of one frequency or more; cos and sin are times `factor`. dtype float32 or
/// float64.
RopeTable make_rope_table(const MemoryPtr& memory, DType dtype, std::int64_t num_positions,
                          std::span<const double> frequencies, double factor = 1);
/// Of rope_frequencies.
RopeTable make_rope_table(const MemoryPtr& memory, DType dtype, std::int64_t num_positions, std::int64_t head_width,
                          double base);

/// Heads of `width` channels, of which those from `first` on turn, as many as the table says. 0: all of them.
struct TurningPart {
  std::int64_t width = 0;
  std::int64_t first = 0;
};

/// Queries and keys, of which each pair (x[i], x[i+D/2]) of each head's turning part of row t turns by the angle of
/// position[t]. The table gives D, the part's width, and the dtype; throws at a position that is not in it. Both turn
/// where they lie if nobody else refers to that memory: std::move them here.
std::pair<Var, Var> rope(Tape& tape, Var queries /*[T,H*D]*/, Var keys /*[T,G*D]*/,
                         const Tensor& position /*[T] int32*/, const RopeTable& table,
                         const TurningPart& of_queries = {}, const TurningPart& of_keys = {});

}  // namespace limbeck::core
