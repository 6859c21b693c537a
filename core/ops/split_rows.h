// A tensor's rows in runs, and together again.
//
//     std::vector<Var> parts = split_rows(tape, x /*[T,...]*/, 3);     // core/slice.h says how many rows each has
//     Var y = join_rows(tape, {f(parts[0]), f(parts[1]), f(parts[2])});
#pragma once

#include <cstdint>
#include <vector>

#include "core/tape.h"

namespace limbeck::core {

/// Views of x, in order; some have no row where there are fewer than parts. One part is x itself.
std::vector<Var> split_rows(Tape& tape, const Var& x /*[T,...]*/, std::int64_t parts);

/// The rows of all, in their order, of one dtype and one shape but for the number of rows. Of one part it is that.
Var join_rows(Tape& tape, const std::vector<Var>& parts);

}  // namespace limbeck::core
