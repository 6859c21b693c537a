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
  Tensor cos;  // [P,R/2] of position * frequency[i], computed in double; R channels of a head turn
  Tensor sin;  // [P,R/2]

  std::int64_t turning() const { return 2 * cos.shape()[1]; }
};

/// base^(-2i/R) for i < R/2; R, the channels of a head that turn, is even.
std::vector<double> rope_frequencies(std::int64_t turning, double base);

/// For positions 0 to num_positions - 1, of one frequency or more; cos and sin are times `factor`. dtype float32 or
/// float64.
RopeTable make_rope_table(const MemoryPtr& memory, DType dtype, std::int64_t num_positions,
                          std::span<const double> frequencies, double factor = 1);
/// Of rope_frequencies.
RopeTable make_rope_table(const MemoryPtr& memory, DType dtype, std::int64_t num_positions, std::int64_t turning,
                          double base);

/// Two tables of one form as one: the rows of `first`, and behind them those of `second`.
RopeTable joined(const RopeTable& first, const RopeTable& second);
/// Which row of a joined table, of P rows each, turns a token: that of its position in the second where its context
/// [T] int32, the positions of its document, is above `limit`, else in the first.
Tensor rope_rows(const Tensor& position /*[T] int32*/, const Tensor& context, std::int64_t limit,
                 std::int64_t num_positions);

/// Heads of `width` channels, of which those from `first` on turn, as many as the table says. 0: all of them.
struct TurningPart {
  std::int64_t width = 0;
  std::int64_t first = 0;
};

/// Queries and keys, of which each pair (x[i], x[i+R/2]) of each head's turning part of row t turns by the angle of
/// position[t]. The table gives R, the part's width, and the dtype; throws at a position that is not in it. Both turn
/// where they lie if nobody else refers to that memory: std::move them here.
std::pair<Var, Var> rope(Tape& tape, Var queries /*[T,H*D]*/, Var keys /*[T,G*D]*/,
                         const Tensor& position /*[T] int32*/, const RopeTable& table,
                         const TurningPart& of_queries = {}, const TurningPart& of_keys = {});

}  // namespace limbeck::core
