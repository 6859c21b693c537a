// Activation checkpointing: one step that holds only a block's inputs, and runs the block again on an inner tape when
// its gradient is due. Random numbers are counter-based and routing is replayed from the routing log, so the second run
// is the first one bit for bit.
//
//     std::vector<Var> out = recompute(tape, {x}, [&](Tape& inner, std::span<const Var> in) {
//       return std::vector<Var>{layer(inner, in[0])};
//     });
#pragma once

#include <functional>
#include <span>
#include <vector>

#include "core/tape.h"

namespace limbeck::core {

using Block = std::function<std::vector<Var>(Tape&, std::span<const Var>)>;

/// Runs `block` on `inputs` and keeps nothing but them. Parameters that the block uses are counted on `tape`.
std::vector<Var> recompute(Tape& tape, const std::vector<Var>& inputs, const Block& block);

}  // namespace limbeck::core
