// Copies of some experts' weights on all ranks among which the experts are dealt.
//
//     ReplicasUnderWay there(tape, as_var(gate), comm, hot, num_experts);
//     Var copies = there.finish();                                 // [E_local,F,C] -> [hot,F,C]
#pragma once

#include <cstdint>
#include <vector>

#include "core/communicators.h"
#include "core/tape.h"

namespace limbeck::core {

/// Forward: the rows of a stack of `num_experts`, of which each rank has a part, of `experts` (ascending), which travel
/// while the rank has other work. Backward: each rank adds to the gradient of its part the sum over the ranks, in rank
/// order; that is the step's weight part.
class ReplicasUnderWay {
 public:
  ReplicasUnderWay(Tape& tape, const Var& stack /*[E_local,...]*/, nn::ReplicaComm& comm,
                   std::vector<std::int64_t> experts, std::int64_t num_experts);
  Var finish();  // once

 private:
  Tape& tape_;
  Var stack_;
  nn::ReplicaComm& comm_;
  std::vector<std::int64_t> experts_;
  std::int64_t num_experts_;
  nn::RowsUnderWay there_;
};

}  // namespace limbeck::core
