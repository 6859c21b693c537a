// Copies of some experts' weights on all ranks among which the experts are dealt, and rows that stay there for them.
//
//     ReplicasUnderWay there(tape, as_var(gate), comm, hot);
//     Var copies = there.finish();                                 // [E_local,F,C] -> [hot,F,C]
//     Var stay = last_rows(tape, rows, num_sent);                  // [N,C] -> [N-num_sent,C]
//     Var all = with_last_rows(tape, back, experts(stay));         // [N,C]
#pragma once

#include <cstdint>
#include <vector>

#include "core/communicators.h"
#include "core/tape.h"

namespace limbeck::core {

/// Forward: the rows of a stack, of which each rank has a part, of `experts` (ascending), which travel while the rank
/// has other work. Backward: each rank adds to the gradient of its part the sum over the ranks, in rank order; that is
/// the step's weight part.
class ReplicasUnderWay {
 public:
  ReplicasUnderWay(Tape& tape, const Var& stack /*[E_local,...]*/, nn::ReplicaComm& comm,
                   std::vector<std::int64_t> experts);
  Var finish();  // once

 private:
  Tape& tape_;
  Var stack_;
  nn::ReplicaComm& comm_;
  std::vector<std::int64_t> experts_;
  nn::RowsUnderWay there_;
};

/// x from row `first` on.
Var last_rows(Tape& tape, const Var& x /*[N,...]*/, std::int64_t first);

/// x, whose last rows, which are nobody's, become `rows`. Nothing is said of their gradient in x.
Var with_last_rows(Tape& tape, Var x /*[N,...]*/, const Var& rows /*[n,...]*/);

}  // namespace limbeck::core
