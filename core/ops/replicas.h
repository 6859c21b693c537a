// Copies of some experts' weights on all ranks among which the experts are dealt, and rows that stay there for them.
//
//     Var copies = replicas(tape, as_var(gate), comm, hot);        // [E_local,F,C] -> [hot,F,C]
//     Var stay = last_rows(tape, rows, num_sent);                  // [N,C] -> [N-num_sent,C]
//     Var all = with_last_rows(tape, back, experts(stay));         // [N,C]
#pragma once

#include <cstdint>
#include <vector>

#include "core/communicators.h"
#include "core/tape.h"

namespace limbeck::core {

/// Forward: the rows of a stack, of which each rank has a part, of `experts` (ascending). Backward: each rank adds to
/// the gradient of its part the sum over the ranks, in rank order; that is the step's weight part.
Var replicas(Tape& tape, const Var& stack /*[E_local,...]*/, nn::ReplicaComm& comm,
             const std::vector<std::int64_t>& experts);

/// x from row `first` on.
Var last_rows(Tape& tape, const Var& x /*[N,...]*/, std::int64_t first);

/// x, whose last rows, which are nobody's, become `rows`. Nothing is said of their gradient in x.
Var with_last_rows(Tape& tape, Var x /*[N,...]*/, const Var& rows /*[n,...]*/);

}  // namespace limbeck::core
